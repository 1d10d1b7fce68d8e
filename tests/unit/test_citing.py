"""Everything that can be trained with says whose work it is, and so does Onward."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from onward._version import __version__
from onward.cli import USER_ERROR, main
from onward.cli.rules import GRID, TASKS
from onward.core.registry import Choice, Registry
from onward.rules import rules
from onward.works import cited, works

ROOT = Path(__file__).parents[2]
REGISTRIES: tuple[Registry, ...] = (rules, *GRID.values(), *TASKS.values())
ENTRIES = [registry.entry(name) for registry in REGISTRIES for name in registry.names()]
FIELD = re.compile(r"^  ([a-z]+) = \{(.*)\},?$")
MUST = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"author", "title", "year"},
}


def fields(record: str) -> dict[str, str]:
    """The fields of a record, one a line."""
    _, *lines, last = record.splitlines()
    assert last == "}"
    found = [FIELD.match(line) for line in lines]
    assert all(found), record
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_rule_and_choice_names_works_that_are_known(entry) -> None:
    assert not [line for line in cited([entry]) if line.startswith("%")]
    assert bool(cited([entry])) == (entry.facts["paper"] != "none needed")


def test_every_work_is_well_formed_and_used() -> None:
    keys = [re.match(r"@(\w+)\{(\w+),", record) for record in works().values()]
    assert len({key[2] for key in keys if key}) == len(works()) >= 25
    for key, record in zip(keys, works().values(), strict=True):
        assert key is not None
        assert MUST[key[1]] <= fields(record).keys()
        assert record.count("{") == record.count("}")
        assert "others" not in fields(record)["author"] or {"note", "eprint"} & fields(record).keys()
    assert set(cited(ENTRIES)) == set(works().values())


def test_a_rule_cites_itself_and_its_choices_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "sltt", "opzo", "--cite"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("@") == 3
    assert [shown.count(key) for key in ("xiao2022online", "meng2023towards", "xiao2026online")] == [1, 1, 1]


def test_citing_as_json_and_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "hlop", "--cite", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["bibtex"]
    assert fields(record)["eprint"] == "2402.11984"
    assert main(["rules", "opzo", "ozpo", "--cite"]) == USER_ERROR
    assert "did you mean 'opzo'" in capsys.readouterr().err


def test_a_third_party_brings_its_own() -> None:
    own = "@misc{doe2030,\n  title = {A rule}\n}"
    registry: Registry[str] = Registry("rule")
    registry.register("theirs", Choice, lambda choice: "", "a rule", facts={"paper": "Doe 2030", "bibtex": own})
    registry.register("silent", Choice, lambda choice: "", "a rule", facts={"paper": "Roe 2031"})
    assert cited([registry.entry("theirs")]) == [own]
    assert cited([registry.entry("silent")]) == ["% silent: Roe 2031; no BibTeX is known"]


def test_the_citation_file_is_of_this_version_and_the_readme_names_it() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    top = dict(re.findall(r"^([a-z-]+): *(.*)$", text, re.MULTILINE))
    assert top["cff-version"] == "1.2.0"
    assert top["version"].strip('"') == __version__
    assert {"message", "title", "authors", "license", "type"} <= top.keys()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(CITATION.cff)" in readme
    assert "--cite" in readme
