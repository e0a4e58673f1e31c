"""Grids from TOML files."""

from pathlib import Path

import pytest

from converters.onnx.options import OnnxOptions
from phi3quant.errors import InputError, SchemeError
from phi3quant.quant.scheme import QuantScheme
from phi3quant.sweep.grid import MOST_JOBS, ModelEntry, grid_of, read_grid
from phi3quant.sweep.job import labels
from phi3quant.tuning.settings import TuningSettings

MODELS = 'models = ["phi3-tiny"]\n'
RTN = '[[recipes]]\nmethod = "rtn"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_stands_for_all_combinations_of_its_values(tmp_path: Path) -> None:
    grid = read_grid(
        write(
            tmp_path,
            MODELS + '[[recipes]]\nmethod = ["rtn", "awq"]\ngroup-size = [32, "row"]\nsym = false\n'
            '[[recipes]]\npreset = "small"\nsamples = 4\n',
        )
    )
    recipes = [entry.recipe for entry in grid.recipes]
    assert [recipe.method for recipe in recipes] == ["rtn", "rtn", "awq", "awq", "awq"]
    assert recipes[1].scheme == QuantScheme(4, None, symmetric=False)
    assert (recipes[4].formats, recipes[4].calibration.samples) == (("onnx",), 4)
    assert recipes[4].onnx.embedding == "int4"
    assert [entry.preset for entry in grid.recipes] == ["", "", "", "", "small"]


def test_lists_of_formats_and_types_may_be_values(tmp_path: Path) -> None:
    grid = read_grid(
        write(
            tmp_path,
            MODELS + '[[recipes]]\nexport = ["gguf,onnx", ["mlx"]]\n'
            'tensor-type = [["down_proj=int8", "o_proj=int8"], "down_proj=int8"]\n',
        )
    )
    assert [entry.recipe.formats for entry in grid.recipes] == [
        *[("gguf", "onnx")] * 2,
        *[("mlx",)] * 2,
    ]
    assert grid.recipes[0].recipe.tensor_types == ("down_proj=int8", "o_proj=int8")


def test_models_may_have_a_revision_and_adapters(tmp_path: Path) -> None:
    entry = '{name = "a/b", revision = "main", adapters = ["./lora=0.5"]}'
    grid = read_grid(write(tmp_path, f"models = [{entry}]\n{RTN}"))
    assert grid.models == (ModelEntry("a/b", "main", ("./lora=0.5",)),)


def test_names_on_the_line_replace_those_in_the_file(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, MODELS + RTN), ["./mine"], ["phone-quality"])
    assert grid == grid_of(["./mine"], ["phone-quality"])


def test_a_target_size_chooses_gguf_as_on_the_command_line(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, MODELS + "[[recipes]]\ntarget-bpw = [5, 5.5]\n"))
    assert [entry.recipe.formats for entry in grid.recipes] == [("gguf",)] * 2


def test_repetitions_count_once(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, f'models = ["a", "a", "b"]\n{RTN}{RTN}'))
    assert (len(grid.models), len(grid.recipes)) == (2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modelz = []", "no key 'modelz'. Did you mean models?"),
        (MODELS + "[[recipes]]\ngroupsize = 32", "no key 'groupsize'. Did you mean group-size?"),
        (MODELS + '[[recipes]]\nmethod = "agw"', "no method 'agw'. Did you mean awq?"),
        (MODELS + '[[recipes]]\npreset = "smalll"', "Did you mean small?"),
        (MODELS + "[[recipes]]\nmethod = []", "the list is empty"),
        (MODELS + "[[recipes]]\nbits = true", "True is not a whole number"),
        (MODELS + "[[recipes]]\nseed = 1e3", "1000.0 is not a whole number"),
        (MODELS + "[[recipes]]\nsamples = 0", "0 is not a whole number from 1 on"),
        (MODELS + "[[recipes]]\nsamples = 99999999999999999999", "is not a whole number"),
        (MODELS + '[[recipes]]\nsym = "asym"', "'asym' is neither true nor false"),
        (MODELS + "[[recipes]]\ntarget-bpw = nan", "nan is not a number from 1 to 16"),
        (MODELS + '[[recipes]]\nexport = "gguf,"', "'' is not a text in quotes"),
        (MODELS + "recipes = 3", "recipes must be a list"),
        (MODELS + "recipes = [3]", "recipes table 1 is not a table"),
        (MODELS, "no recipes"),
        (RTN, "no models"),
        ("models = [3]\n" + RTN, "model 1 is neither a name"),
        ('models = "a"\n' + RTN, "models must be a list"),
        ("models = [{}]\n" + RTN, "model 1: name must be a text"),
        (f"{MODELS}text = 1\n{RTN}", "text is not a table"),
        (f"{MODELS}[text]\nwindow = 1\n{RTN}", "window must be a whole number from 2 on"),
        (f"{MODELS}[text]\nwindws = 1\n{RTN}", "Did you mean window?"),
        ("models = [", "not readable as TOML"),
        ('models = ["\\ud800"]', "not readable as TOML"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = 1" + "0" * 5000, "not readable as TOML"),
        ("#" * (2 << 20), "more than 1 MiB"),
    ],
    ids=range(27),
)
def test_faults_have_a_message_with_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_grid(path)
    assert message in str(caught.value)


def test_a_missing_file_and_bytes_that_are_not_text_have_a_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read: No such file"):
        read_grid(tmp_path / "none.toml")
    (tmp_path / "grid.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(InputError, match="not UTF-8"):
        read_grid(tmp_path / "grid.toml")


def test_choices_that_exclude_each_other_are_refused_with_their_table(tmp_path: Path) -> None:
    both = '[[recipes]]\npreset = "small"\nprofile = "arm-cpu"\n'
    with pytest.raises(SchemeError, match="recipes table 1: a preset and a profile"):
        read_grid(write(tmp_path, MODELS + both))
    with pytest.raises(SchemeError, match="recipes table 1: 7 bits are not supported"):
        read_grid(write(tmp_path, MODELS + "[[recipes]]\nbits = [4, 7]\n"))


def test_a_grid_that_grows_too_large_is_refused_before_it_is_built(tmp_path: Path) -> None:
    many = list(range(200))
    large = f"{MODELS}[[recipes]]\nseed = {many}\nsamples = {many[1:]}\nseq-len = {many[2:]}\n"
    with pytest.raises(
        InputError, match=f"7,880,400 combinations, and a sweep at most {MOST_JOBS:,}"
    ):
        read_grid(write(tmp_path, large))


def test_labels_show_only_what_differs(tmp_path: Path) -> None:
    grid = read_grid(
        write(tmp_path, MODELS + RTN + "[[recipes]]\nseed = [1, 2]\n[[recipes]]\nbits = 8\n")
    )
    assert labels(grid.recipes) == [
        "RTN int4 sym g32, compressed-tensors",
        "AWQ int4 sym g32, compressed-tensors, seed 1",
        "AWQ int4 sym g32, compressed-tensors, seed 2",
        "AWQ int8 sym g32, compressed-tensors",
    ]


def test_mixtures_of_texts_and_tuning_are_choices(tmp_path: Path) -> None:
    grid = read_grid(
        write(
            tmp_path,
            MODELS + '[[recipes]]\ncalib = ["general", ["general", "self:8"]]\n'
            "tune = [false, true]\n[[recipes]]\ntune = true\ntune-windows = 5\ntune-passes = 3\n",
        )
    )
    recipes = [entry.recipe for entry in grid.recipes]
    assert [recipe.calibration.source for recipe in recipes] == [
        *["general"] * 2,
        *[("general", "self:8")] * 2,
        None,
    ]
    assert [recipe.tuning is not None for recipe in recipes] == [False, True, False, True, True]
    assert recipes[-1].tuning == TuningSettings(windows=5, passes=3)
    assert len(set(labels(grid.recipes))) == 5


def test_layouts_of_onnx_and_mlx_are_choices(tmp_path: Path) -> None:
    grid = read_grid(
        write(
            tmp_path,
            MODELS + '[[recipes]]\nexport = ["onnx", "mlx", "onnx,mlx"]\nembedding = "int4"\n'
            'head = ["int4", "int8"]\n[[recipes]]\npreset = "small"\naccuracy-level = [0, 4]\n'
            'embedding = "fp16"\nio = "fp16"\nopset = 14\n',
        )
    )
    recipes = [entry.recipe for entry in grid.recipes]
    layouts = [(recipe.onnx.head, recipe.mlx.head) for recipe in recipes[:6]]
    assert layouts[:2] == [("int4", None), ("int8", None)]
    assert layouts[2:4] == [(None, "int4"), (None, "int8")]
    assert layouts[4:] == [("int4", "int4"), ("int8", "int8")]
    assert [recipe.onnx for recipe in recipes[6:]] == [
        OnnxOptions(level, "fp16", opset=14, io="fp16") for level in (0, 4)
    ]
    assert len(set(labels(grid.recipes))) == 8


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ('head = "int4"', "require onnx or mlx"),
        ('export = "mlx"\nio = "fp16"', "require onnx among the formats"),
        ('export = "mlx"\nhead = "fp32"', "no head fp32 in MLX"),
        ('export = "onnx"\nopset = 15', "15 is not one of 14, 21"),
        ('export = "onnx"\naccuracy-level = 5', "5 is not one of 0, 1, 2, 3, 4"),
        ('export = "onnx"\nembedding = "int5"', "Did you mean int8?"),
    ],
)
def test_layouts_that_no_format_has_are_refused(tmp_path: Path, choice: str, message: str) -> None:
    with pytest.raises((InputError, SchemeError)) as caught:
        read_grid(write(tmp_path, MODELS + f"[[recipes]]\n{choice}\n"))
    assert message in str(caught.value)


def test_an_amount_of_tuning_requires_tuning(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="require Recipe"):
        read_grid(write(tmp_path, MODELS + "[[recipes]]\ntune-windows = 5\n"))
