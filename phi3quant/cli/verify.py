"""``phi3quant verify``."""

from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.terminal import echo, note, print_json
from phi3quant.provenance.integrity import check_adapters, check_hashes, check_source
from phi3quant.provenance.sealing import read_provenance
from phi3quant.source.locate import locate
from phi3quant.units import count

EXIT_CHANGED = 1


@click.command()
@click.argument("artifact", type=values.OUTPUT)
@click.option(
    "--source", help="The original model, to check it and merged adapters against their hashes."
)
@click.option("--quiet", "-q", is_flag=True, help="Print only files that differ.")
@options.AS_JSON
def verify(artifact: Path, source: str | None, *, quiet: bool, as_json: bool) -> None:
    """Check the size and hash of every file of ARTIFACT against its manifest.

    \b
    phi3quant verify ./phi3-4bit
    phi3quant verify ./phi3-4bit --source ./Phi-3-mini-4k-instruct
    phi3quant verify phi3-Q4_0.gguf

    A single .gguf file is checked against the hash of its tensors in its metadata.

    Exit codes: 0 all files match, 1 a file differs, 2 bad input, 3 no manifest with hashes.
    """
    located = locate(artifact)
    checks, unchecked = check_hashes(located.path), list[str]()
    if source is not None:
        manifest = read_provenance(located.path)
        adapters, unchecked = check_adapters(manifest)
        checks += check_source(manifest, locate(source).folder) + adapters
    changed = [check for check in checks if check.problem]
    if as_json:
        print_json(
            {
                "artifact": str(artifact),
                "intact": not changed,
                "files": [{"name": check.name, "problem": check.problem} for check in checks],
                "unchecked_adapters": unchecked,
            }
        )
    else:
        for check in checks:
            if check.problem or not quiet:
                echo(f"{check.name}: {check.problem or 'matches the manifest'}")
        for name in unchecked:
            note(f"note: the adapter {name} isn't in that folder any more, so it isn't checked")
        if not (changed or quiet):
            echo(f"PASS: {count(len(checks), 'file')} checked")
    if changed:
        files = count(len(checks), "file")
        note(f"FAIL: {len(changed)} of {files} {_differ(len(changed))} from the manifest")
        raise click.exceptions.Exit(EXIT_CHANGED)


def _differ(number: int) -> str:
    return "differs" if number == 1 else "differ"
