from __future__ import annotations

import pytest

from auditkit.errors import AuditError, UsageError
from auditkit.samples import open_dataset


@pytest.fixture
def flat(tmp_path, picture):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "deep").mkdir()
    picture(9).save(tmp_path / "deep" / "9.png")
    return tmp_path


def labelled(folder, text, **options):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    dataset = open_dataset(folder, **options)
    return dataset, dataset.read(0, len(dataset)).samples


@pytest.mark.parametrize(
    "header",
    ["file,label", "filename,class", "Label,Image", "path , y", "\ufefffile,label", "x,file,label,z"],
)
def test_the_columns_are_found(flat, header):
    columns = [column.strip(" \ufeff").lower() for column in header.split(",")]
    values = dict.fromkeys(("file", "filename", "image", "path"), "2.png")
    values |= dict.fromkeys(("label", "class", "y"), "5") | {"x": "-", "z": ""}
    dataset, samples = labelled(flat, header + "\n" + ",".join(values[column] for column in columns) + "\n")
    assert samples.ids == ("2.png",)
    assert samples.labels.tolist() == [5]
    assert dataset.class_names is None


def test_rows_keep_their_order_and_unlisted_images_are_not_used(flat):
    _, samples = labelled(flat, "file,label\n3.png,1\n./0.png,0\n\ndeep/9.png,7\n")
    assert samples.ids == ("3.png", "0.png", "deep/9.png")
    assert samples.labels.tolist() == [1, 0, 7]


def test_names_become_sorted_classes(flat):
    dataset, samples = labelled(flat, 'file,label\n0.png,stop\n1.png,"a, b"\n2.png, stop \n')
    assert dataset.class_names == ("a, b", "stop")
    assert samples.labels.tolist() == [1, 0, 1]


def test_given_names_settle_the_indices(flat):
    dataset, samples = labelled(flat, "file,label\n0.png,b\n1.png,1.5\n", class_names=["c", "b", "1.5"])
    assert dataset.class_names == ("c", "b", "1.5")
    assert samples.labels.tolist() == [1, 2]


def test_numbers_are_indices_even_with_given_names(flat):
    _, samples = labelled(flat, "file,label\n0.png,0\n", class_names=["1", "0"])
    assert samples.labels.tolist() == [0]


def test_a_table_elsewhere_can_be_given(flat, tmp_path_factory):
    table = tmp_path_factory.mktemp("other") / "t.csv"
    table.write_text("file,label\n0.png,0\n")
    assert len(open_dataset(flat, labels_csv=table)) == 1


def test_a_limit_chooses_over_the_whole_table(flat):
    rows = "".join(f"{number}.png,{number // 2}\n" for number in range(4))
    _, few = labelled(flat, "file,label\n" + rows, limit=2)
    _, whole = labelled(flat, "file,label\n" + rows)
    assert len(few) == 2
    assert set(few.digests()) < set(whole.digests())


WRONG = {
    "no rows": ("file,label\n", ["no rows"]),
    "nothing": ("", ["file", "none"]),
    "no file column": ("name,label\n0.png,1\n", ["file", "'name'"]),
    "no label column": ("file;label\n0.png;1\n", ["'file;label'"]),
    "missing file": ("file,label\n0.png,1\nnone.png,1\n", ["line 3", "none.png"]),
    "twice": ("file,label\n0.png,1\n1.png,1\n./0.png,1\n", ["line 4", "0.png", "line 2"]),
    "blank label": ("file,label\n0.png,1\n1.png, \n", ["line 3", "1.png", "no label"]),
    "short row": ("file,label\n0.png\n", ["line 2", "0.png", "no label"]),
    "long row": ("file,label\n0.png,1,2\n", ["line 2", "more than the 2 fields"]),
    "blank file": ("file,label\n,1\n", ["line 2", "names no file"]),
    "negative": ("file,label\n0.png,-1\n", ["line 2", "0.png", "-1", "negative"]),
    "fraction": ("file,label\n0.png,1.0\n1.png,cat\n", ["line 2", "0.png", "'1.0'"]),
    "huge": ("file,label\n0.png,99999999999999999999\n", ["line 2", "0.png"]),
    "mixed": ("file,label\n0.png,cat\n1.png,3\n", ["line 3", "1.png", "'3'"]),
    "outside": ("file,label\n../0.png,1\n", ["line 2", "../0.png", "outside"]),
    "absolute": ("file,label\n/etc/passwd,1\n", ["line 2", "/etc/passwd", "outside"]),
    "a folder": ("file,label\ndeep,1\n", ["line 2", "deep"]),
    "quotes": ('file,label\n"0.png,1\n', ["CSV"]),
    "nul": ("file,label\n0.p\0ng,1\n", []),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_table_is_refused(flat, refused, text, told, skip_bad):
    with refused(str(flat / "labels.csv"), *told):
        labelled(flat, text, skip_bad=skip_bad)


def test_labels_beyond_the_given_names_are_refused(flat, refused):
    with refused("line 2", "0.png", "2 class names"):
        labelled(flat, "file,label\n0.png,2\n", class_names=["a", "b"])
    with refused("line 2", "'stopp'", "did you mean stop?"):
        labelled(flat, "file,label\n0.png,stopp\n", class_names=["stop", "go"])


def test_a_table_in_another_encoding_is_refused(flat, refused):
    (flat / "labels.csv").write_bytes("file,label\n0.png,é\n".encode("latin-1"))
    with refused("labels.csv", "UTF-8"):
        open_dataset(flat)


def test_a_table_that_is_not_there_is_refused(flat, refused):
    with refused("none.csv", kind=UsageError):
        open_dataset(flat, labels_csv=flat / "none.csv")


def test_a_listed_file_that_is_no_image_is_bad_not_structural(flat, refused):
    (flat / "a.txt").write_text("x")
    with refused("a.txt"):
        labelled(flat, "file,label\n0.png,0\na.txt,1\n")
    dataset = open_dataset(flat, skip_bad=True)
    assert [skipped.id for skipped in dataset.read(0, 2).skipped] == ["a.txt"]


@pytest.mark.parametrize(
    "name", ["a\x1b[2J.png", "a\x0cb.png", "a\u2028b.png", "a" * 20_000], ids=["escape", "page", "line", "long"]
)
@pytest.mark.parametrize("row", ["{},", "{},0", "../{},0", "0.png,{}"])
def test_names_in_a_table_are_told_on_one_line_of_a_length_that_one_reads(tmp_path, name, row):
    (tmp_path / "labels.csv").write_text(f"file,label\n{row.format(name)}\n", encoding="utf-8")
    with pytest.raises(AuditError) as caught:
        open_dataset(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
