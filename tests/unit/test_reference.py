from __future__ import annotations

import pytest

from ifinu.reference import reference_in, reference_of, with_reference, without_references


def test_a_reference_follows_from_the_id_alone():
    """
    Messages sent before an update are looked up after it, so the value must not change.
    """
    assert reference_of("test_1") == "HCUB-B265"
    assert reference_of("test_2") != reference_of("test_1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (with_reference("Olá, Maria!", "test_1"), "HCUB-B265"),
        ("Olá!\n\n_Ref. HCUB-B265_", "HCUB-B265"),
        ("Olá!\n\n_Ref. HCUB-B265_\n ", "HCUB-B265"),
        (with_reference("_Ref. K7Q2-M7XT_", "test_1"), "HCUB-B265"),
        ("_Ref. HCUB-B265_\nObrigado", None),  # anywhere else it is a quotation
        ("> _Ref. HCUB-B265_", None),
        ("Ref. HCUB-B265", None),
        ("Segue a _Ref. HCUB-B265_", None),
        ("_Ref. HCUB-B26_", None),
        ("_Ref. hcub-b265_", None),
        ("_Ref. HCUB-B2651_", None),
        ("", None),
    ],
)
def test_the_last_line_alone_is_a_reference_and_only_as_we_write_it(text: str, found: str | None):
    assert reference_in(text) == found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Olá\n\n_Ref. K6LH-IB23_", "Olá"),
        ("Olá\nRef. K6LH-IB23\nTchau", "Olá\nTchau"),
        ("> *Ref. K6LH-IB23*\n_Ref. K7Q2-M7XT_ ", ""),
        ("Segue o boleto Ref. K6LH-IB23 de novo", "Segue o boleto Ref. K6LH-IB23 de novo"),
        ("Referencial\n\nRef. 2026-0001 ", "Referencial\n\nRef. 2026-0001 "),
    ],
)
def test_a_given_text_loses_the_lines_that_claim_to_be_ours_and_nothing_else(text: str, kept: str):
    assert without_references(text) == kept
