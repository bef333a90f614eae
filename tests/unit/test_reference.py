from __future__ import annotations

import pytest

from ifinu.reference import reference_of, references_in, with_reference


def test_a_reference_follows_from_the_id_alone():
    """
    Messages that were sent before an update are looked up after it: the value must not change.
    """
    assert reference_of("test_1") == "HCUB-B265"
    assert reference_of("test_2") != reference_of("test_1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (with_reference("Olá, Maria!", "test_1"), ["HCUB-B265"]),
        ("Olá!\n\n_Ref. HCUB-B265_", ["HCUB-B265"]),
        ("> Ref. HCUB-B265\nRef. K7Q2-M7XT", ["HCUB-B265", "K7Q2-M7XT"]),
        ("Ref. HCUB-B26", []),
        ("Ref. hcub-b265", []),
        ("Ref. HCUB-B2651", []),
        ("", []),
    ],
)
def test_references_are_found_in_texts(text: str, found: list[str]):
    assert references_in(text) == found
