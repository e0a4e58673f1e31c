"""``phi3quant verify``."""

import click

from phi3quant.cli import options
from phi3quant.cli.terminal import echo, note, print_json
from phi3quant.provenance.integrity import check_hashes, check_source
from phi3quant.provenance.sealing import read_provenance
from phi3quant.source.locate import locate

EXIT_CHANGED = 1


@click.command()
@click.argument("artifact", type=options.OUTPUT_TYPE)
@click.option("--source", help="Hold the model that it was made from against its hashes too.")
@click.option("--quiet", "-q", is_flag=True, help="Print only what is wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(artifact: str, source: str | None, *, quiet: bool, as_json: bool) -> None:
    """Check that every file of ARTIFACT has the size and hash that its manifest says.

    \b
    phi3quant verify ./phi3-4bit
    phi3quant verify ./phi3-4bit --source ./Phi-3-mini-4k-instruct
    phi3quant verify phi3-Q4_0.gguf          the hash of its tensors, carried in its metadata

    Exit codes: 0 all as stated, 1 something changed, 2 bad input, 3 no manifest with hashes.
    """
    located = locate(artifact)
    checks = check_hashes(located.path)
    if source is not None:
        checks += check_source(read_provenance(located.path), locate(source).folder)
    changed = [check for check in checks if check.problem]
    if as_json:
        print_json(
            {
                "artifact": str(artifact),
                "intact": not changed,
                "files": [{"name": check.name, "problem": check.problem} for check in checks],
            }
        )
    else:
        for check in checks:
            if check.problem or not quiet:
                echo(f"{check.name}: {check.problem or 'as stated'}")
    if changed:
        note(f"FAIL: {len(changed)} of {len(checks)} are not as the manifest says")
        raise click.exceptions.Exit(EXIT_CHANGED)
