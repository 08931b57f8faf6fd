"""What a file is, by its first bytes; and why a file cannot be opened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from bad_lists import LINES, OTHER_FILES, PAGE, POINTER, saved, zipped

from makemore import load_model
from makemore.core.errors import DataError, ModelFileError
from makemore.data import reading
from makemore.data.file_kinds import (
    OLD_MODEL,
    PYTORCH,
    SAFETENSORS,
    START,
    ZIP,
    encoding_of,
    file_kind,
    near_file,
)
from makemore.data.reading import WordFile
from makemore.data.word_list import bundled_path, read_words
from makemore.run.model_file import BUNDLED

TEXTS = [
    "emma\nava\n",
    "anna",
    "王\n李四\n",
    "王 李",
    "Жанна\nПётр\n",
    "مرحبا\nسلام\n",
    "😀a\r\nb",
    "zoë\tx\n",
]


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_of_other_kinds_are_known(kind: str, tmp_path: Path) -> None:
    """As a list, and as a model file."""
    content, what = OTHER_FILES[kind]
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path} {what}.*: \w") as refused:
        read_words(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(
        ModelFileError, match=r"^\S+words\.txt (is not a makemore model file|was written by a)"
    ):
        load_model(path)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_encodings_are_known_with_and_without_a_mark(text: str, encoding: str) -> None:
    assert encoding_of(("\ufeff" + text).encode(encoding)) == encoding
    if b"\0" in text.encode(encoding):
        assert encoding_of(text.encode(encoding)) == encoding
    long = (text * 20_000).encode(encoding)
    assert b"\0" not in long or encoding_of(long[:START]) == encoding


def test_text_in_utf_8_is_no_other_kind() -> None:
    assert file_kind(bundled_path().read_bytes()[:START]) is None
    for text in [*TEXTS, "", "[a]\n[b]\n", "{x}\n", "<b>\n", "PK\n", "BZ\n", "GIF\n", "version\n", "%PDF\n"]:
        assert file_kind(text.encode()) is None, text
        assert file_kind(("\ufeff" + text).encode()) is None, text


def test_bytes_without_a_meaning_are_rarely_taken_for_a_file() -> None:
    rng = random.Random(0)
    known = [file_kind(rng.randbytes(rng.choice([20, 100, 1000]))) for _ in range(1000)]
    assert len([kind for kind in known if kind is not None]) < 5


def test_models_are_told_apart() -> None:
    assert file_kind(BUNDLED.read_bytes()[:START]) is SAFETENSORS
    assert file_kind(saved({"format": "makemore model", "tensors": {"a": torch.ones(3)}})) is OLD_MODEL
    assert file_kind(saved({"a": torch.ones(3)})) is PYTORCH
    assert file_kind(zipped("makemore.txt")) is ZIP


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"BZh", b"PK\3\4", b"PAR1", b"\x80\4"])
def test_a_header_whose_length_is_a_magic_number_is_that_of_safetensors(magic: bytes) -> None:
    assert file_kind(magic.ljust(8, b"\0")[:4] + bytes(4) + b'{"__metadata__":{}}') is SAFETENSORS


def message(path: Path | str) -> str:
    with pytest.raises(DataError) as refused:
        read_words(path)
    return str(refused.value)


def test_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_bytes(OTHER_FILES["gzip"][0])
    assert message("words.txt") == "words.txt is a gzip file: name it words.txt.gz"
    Path("words.txt").rename("words.txt.gz")
    assert len(read_words("words.txt.gz")) == 8
    Path("words.txt").write_bytes(POINTER)
    assert message("words.txt") == "words.txt is a Git LFS pointer: get the file with git lfs pull"
    Path("{x}").write_bytes(PAGE.encode())
    assert message("{x}") == "{x} is an HTML page: download the text itself"
    Path("words").write_bytes(LINES.encode("utf-16-le"))
    assert message("words") == "words is UTF-16 text: save it as utf-8 (iconv -f utf-16-le -t utf-8)"


def test_the_content_of_a_compressed_file_has_a_kind_too(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "words.tar.gz"
    path.write_bytes(gzip.compress(OTHER_FILES["tar"][0]))
    assert message(path) == f"the content of {path} is a tar archive: unpack it"
    path.write_bytes(gzip.compress(OTHER_FILES["gzip"][0]))
    assert message(path) == f"the content of {path} is a gzip file: decompress it"


def test_words_to_score_are_checked_as_well(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(OTHER_FILES["xlsx"][0])
    with WordFile(str(path)) as file:
        for read in (file.num_lines, lambda: list(file.lines()), lambda: list(file.texts())):
            with pytest.raises(DataError, match="is an Excel workbook: save it as text in utf-8"):
                read()


@pytest.mark.parametrize("block", [1, 100])
def test_a_small_first_block_is_no_error(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.txt"
    path.write_text(LINES)
    monkeypatch.setattr(reading, "BLOCK", block)
    assert len(read_words(path)) == 8


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("word.txt", "words.txt"),
        ("Words.TXT", "words.txt"),
        ("words", "words.txt"),
        ("wrods.txt", "words.txt"),
        ("names.csv", "names.txt.gz"),
        ("model.safetensors", None),
        ("none", None),
        ("", None),
        ("nowhere/words.txt", None),
        ("a\0b", None),
    ],
)
def test_a_similar_name_is_suggested(missing: str, near: str | None, tmp_path: Path) -> None:
    for name in ("words.txt", "names.txt.gz", "teacher-1.safetensors", "b"):
        (tmp_path / name).touch()
    (tmp_path / "word.txts").mkdir()
    assert near_file(f"{tmp_path}/{missing}") == (near and f"{tmp_path}/{near}")


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").touch()
    missing = "cannot read the word list word.txt: No such file or directory; did you mean words.txt?"
    assert message("word.txt") == missing
    url = "https://example.com/words.txt"
    wanted = f"cannot read the word list {url}: it is a URL: download the file, and give the path of that"
    assert message(url) == wanted
    with pytest.raises(ModelFileError, match=r"cannot read https:/example.*: it is a URL: download"):
        load_model(Path(url))
    with pytest.raises(ModelFileError, match=r"cannot read word.txt: No such .*; did you mean words\.txt\?"):
        load_model("word.txt")
