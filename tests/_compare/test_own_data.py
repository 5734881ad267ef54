"""A user's own table: what becomes of its columns, and what is refused of it in one line."""

import numpy as np
import pandas
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from tritia._compare import datasets, own_data, training
from tritia._compare.errors import UsageError

ROWS = 60
RANDOM = np.random.default_rng(0)
AGE = RANDOM.normal(40, 10, ROWS)
COLOUR = np.array(["red", "green", "blue"])[np.arange(ROWS) % 3]
TABLE = pandas.DataFrame(
    {
        "age": AGE,
        "colour": COLOUR,
        "bought": np.where(AGE > 40, "yes", "no"),
        "price": 3 * AGE + RANDOM.normal(size=ROWS),
        "stars": np.arange(ROWS) % 5,
    }
)


def write(folder, table=TABLE, name="table.csv", **options):
    path = folder / name
    table.to_csv(path, index=False, **options)
    return path


def scaled(dataset, part="training"):
    """The features and targets that the network sees of one part of the rows."""
    split = datasets.split(dataset, 0)
    rows = training.Rows(dataset.inputs, dataset.targets)
    return training.gather(dataset, rows, split, getattr(split, part))


def test_numbers_categories_and_classes(tmp_path):
    dataset = own_data.load(write(tmp_path), "bought", drop=["price", "stars"])
    assert (dataset.task, dataset.classes, dataset.name) == ("classification", 2, "table")
    assert dataset.inputs.shape == (ROWS, 1 + 3)
    np.testing.assert_array_equal(dataset.targets, AGE > 40)  # sorted: no, yes
    onehot = pandas.get_dummies(COLOUR).to_numpy()
    np.testing.assert_array_equal(dataset.inputs[:, 1:], onehot)
    assert "1 column of numbers and one-hot columns for the categories of colour (3)" in (
        dataset.source
    )
    assert "bought (classification, 2 classes, recognised)" in dataset.source


def test_what_the_network_sees_is_standardised_by_its_training_rows(tmp_path):
    gaps = TABLE.copy()
    gaps.loc[::7, "age"] = np.nan
    gaps.loc[::11, "colour"] = None
    dataset = own_data.load(write(tmp_path, gaps), "price", drop=["bought", "stars"])
    split = datasets.split(dataset, 0)
    imputer, scaler = SimpleImputer(), StandardScaler()
    ages = gaps[["age"]].to_numpy()
    # Deviations are those of the rows that are there: imputed means narrow none.
    scaler.fit(ages[split.training])
    imputer.fit(scaler.transform(ages[split.training]))
    for part in ("training", "validation", "test"):
        inputs, targets = scaled(dataset, part)
        rows = getattr(split, part)
        expected = imputer.transform(scaler.transform(ages[rows]))
        np.testing.assert_allclose(inputs[:, :1], expected, atol=1e-5)
        prices = gaps[["price"]].to_numpy()
        expected = StandardScaler().fit(prices[split.training]).transform(prices[rows])
        np.testing.assert_allclose(targets, expected, atol=1e-5)
    assert dataset.inputs.shape == (ROWS, 1 + 4)  # a missing colour is a colour
    assert f"missing numbers ({len(range(0, ROWS, 7))}) are the mean of the training rows" in (
        dataset.source
    )


def test_large_numbers_keep_what_tells_them_apart(tmp_path):
    seconds = 1.7e9 + np.arange(ROWS)  # float32 would round them to 128 seconds
    table = pandas.DataFrame({"when": seconds, "huge": 1e300 * AGE, "y": AGE})
    inputs, _ = scaled(own_data.load(write(tmp_path, table), "y"))
    rows = datasets.split(own_data.load(write(tmp_path, table), "y"), 0).training
    for column, values in enumerate((np.arange(ROWS), AGE)):
        expected = StandardScaler().fit_transform(values[rows][:, None])[:, 0]
        np.testing.assert_allclose(inputs[:, column], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "task", "expected"),
    [
        ("bought", None, "classification"),
        ("stars", None, "classification"),
        ("stars", "regression", "regression"),
        ("price", None, "regression"),
    ],
)
def test_the_task_is_recognised_and_can_be_said(tmp_path, target, task, expected):
    dataset = own_data.load(write(tmp_path), target, task)
    assert dataset.task == expected
    assert ("recognised" in dataset.source) == (task is None)
    assert len(scaled(dataset)[0])


def test_columns_of_numbers_can_be_categories(tmp_path):
    dataset = own_data.load(
        write(tmp_path), "price", drop=["bought", "colour", "age"], categories=["stars"]
    )
    np.testing.assert_array_equal(dataset.inputs, np.eye(5)[np.arange(ROWS) % 5])


def test_every_kind_of_file_holds_the_same(tmp_path):
    from_csv = own_data.load(write(tmp_path), "bought")
    TABLE.to_parquet(tmp_path / "table.parquet")
    arrays = {name: np.asarray(TABLE[name].tolist()) for name in TABLE}
    np.savez(tmp_path / "table.npz", **arrays)
    others = {
        "semicolons": write(tmp_path, name="semicolons.csv", sep=";"),
        "tabs": write(tmp_path, name="tabs.tsv", sep="\t"),
        "mark": write(tmp_path, name="mark.csv", encoding="utf-8-sig"),
        "parquet": tmp_path / "table.parquet",
        "npz": tmp_path / "table.npz",
    }
    TABLE.to_csv(tmp_path / "numbered.csv")  # with row numbers, in a column without a name
    others["numbered"] = tmp_path / "numbered.csv"
    others["commas"] = write(tmp_path, name="commas.csv", sep=";", decimal=",")
    others["old"] = write(tmp_path, name="old.csv", lineterminator="\r")
    (tmp_path / "spaces.csv").write_text((tmp_path / "table.csv").read_text().replace(",", ", "))
    others["spaces"] = tmp_path / "spaces.csv"
    for name, path in others.items():
        dataset = own_data.load(path, "bought")
        np.testing.assert_allclose(dataset.inputs, from_csv.inputs, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(dataset.targets, from_csv.targets, err_msg=name)


def test_an_npz_may_hold_tables(tmp_path):
    images = RANDOM.normal(size=(ROWS, 4, 2))
    outputs = RANDOM.normal(size=(ROWS, 3))
    np.savez_compressed(tmp_path / "table.npz", images=images, outputs=outputs)
    dataset = own_data.load(tmp_path / "table.npz", "outputs")
    assert dataset.inputs.shape == (ROWS, 8)
    assert (dataset.outputs, dataset.task) == (3, "regression")


def changed(**columns):
    return TABLE.assign(**columns)


def some(value, count=1):
    return [value] * count + AGE.tolist()[count:]


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (TABLE, {"target": "bougt"}, "unknown column of .* 'bougt'. Did you mean 'bought'"),
        (TABLE, {"drop": ["x"]}, "`drop`: unknown column"),
        (TABLE, {"categories": ["x"]}, "`categories`: unknown column"),
        (TABLE, {"drop": ["bought"]}, "leaves out 'bought', which is the target"),
        (TABLE, {"drop": ["age", "colour", "price", "stars"]}, "no columns besides 'bought'"),
        (TABLE, {"task": "regression"}, "holds text .'(yes|no)' in row 1.; regression needs"),
        (TABLE.head(9), {}, "has 9 rows; at least 10"),
        (TABLE.head(0), {}, "has no rows"),
        (changed(bought="yes"), {}, "one class only, 'yes'"),
        (changed(bought=["odd", *["yes"] * 30, *["no"] * 29]), {}, "class 'odd' .* has 1 row;"),
        (changed(bought=[None, *["yes"] * 30, *["no"] * 29]), {}, "missing in 1 of 60 .* row 1;"),
        (changed(bought=2.5), {"task": "regression"}, "is the same in every row"),
        (changed(age=some("old", 3)), {}, "'age' .* text among numbers: 'old' in row 1"),
        (changed(bought=some("many", 3)), {}, "'bought' .* text among numbers: 'many' in row 1"),
        (changed(age=some("inf", 3)), {}, "'age' .* is infinite in 3 of 60 rows, first in row 1"),
        (changed(age=np.nan), {}, "column 'age' of .* is empty"),
        (changed(name=[f"n{i % 31}" for i in range(ROWS)]), {}, "31 .* such as 'n0'; of 60 .* 30"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(tmp_path, table, options, words):
    path = write(tmp_path, table)
    with pytest.raises(UsageError, match=words) as caught:
        own_data.load(path, **{"target": "bought", **options})
    assert "\n" not in str(caught.value)


LINES = ["a,b,c", *("1,2,x" if i % 2 else "3,4,y" for i in range(20))]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b,c\n", "has no rows"),
        ("\n".join([*LINES, "1,2"]).encode(), "line 22 has 2 fields, the header has 3"),
        ("\n".join([*LINES, "1,2,3,4"]).encode(), "line 22 has 4 fields, the header has 3"),
        ("\n".join(["a,a,c", *LINES[1:]]).encode(), "two columns 'a'"),
        (b"1,2\n3,4\n", "has no header: its first line holds 1, 2"),
        ("\n".join(LINES).replace("x", "é").encode("latin1"), "not UTF-8 .byte 0xe9"),
        ("\n".join(LINES).encode("utf-16"), "not UTF-8"),
        ("\n".join(LINES).replace("x", "\0").encode(), "holds NUL"),
        ("\n".join([*LINES, '"1,2,3']).encode(), "line 22 has 1 fields"),
    ],
)
def test_damaged_csv_is_refused(tmp_path, content, words):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        own_data.load(tmp_path / "table.csv", "c")
    assert "\n" not in str(caught.value)
    assert "table.csv" in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "table.npz").write_bytes(b"PK and no more")
    (tmp_path / "folder.csv").mkdir()
    np.savez(tmp_path / "objects.npz", c=np.array([{}, []], object))
    np.savez(tmp_path / "ragged.npz", a=np.ones(20), c=np.ones(19))
    np.savez(tmp_path / "single.npz", a=np.ones(20), c=1.0)
    np.savez(tmp_path / "complex.npz", a=np.ones(20), c=np.ones(20) * 1j)
    np.savez(tmp_path / "other.npz", a=np.ones(20), b=np.ones(20))
    for name, words in (
        ("nowhere.csv", "there is no file"),
        ("table.xlsx", "is not one of .csv, .tsv, .parquet, .npz"),
        ("folder.csv", "not a regular file"),
        ("table.parquet", "cannot be read as Parquet"),
        ("table.npz", "cannot be read as npz"),
        ("objects.npz", "cannot be read as npz"),
        ("ragged.npz", "differ in their rows .a 20, c 19."),
        ("single.npz", "array 'c' is a single value"),
        ("complex.npz", "neither numbers nor a column of text"),
        ("other.npz", "unknown column of .* 'c'"),
    ):
        with pytest.raises(UsageError, match=words):
            own_data.load(tmp_path / name, "c")


def test_dates_are_refused(tmp_path):
    table = changed(when=pandas.date_range("2020-01-01", periods=ROWS))
    table.to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UsageError, match=r"'when' .* holds Timestamp.*`drop` leaves it out"):
        own_data.load(tmp_path / "table.parquet", "bought")
    assert own_data.load(tmp_path / "table.parquet", "bought", drop=["when"]).inputs.any()
    np.savez(tmp_path / "table.npz", y=AGE, z=AGE * 1j, x=AGE)
    assert own_data.load(tmp_path / "table.npz", "y", drop=["z"]).inputs.shape == (ROWS, 1)
