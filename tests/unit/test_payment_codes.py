import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pix import with_checksum

from ifinu.payment_codes import boleto_line, pix_code, spaced

# The example of "Manual de Padrões para Iniciação do Pix", Banco Central do Brasil.
CENTRAL_BANK = (
    "00020126580014br.gov.bcb.pix0136123e4567-e12b-12d1-a456-426655440000"
    "5204000053039865802BR5913Fulano de Tal6008BRASILIA62070503***63041D3D"
)
BOLETO = "00190500954014481606906809350314337370000000100"
BILLS = [
    "836200000005667800481000180975657313001589636081",  # modulo 10
    "858900004609524601791605607593050865831483000010",  # modulo 11
    "848900000002404201622015806051904292586034111220",
    "817700000000010936599702411310797039001433708318",
]


@pytest.mark.parametrize("code", [CENTRAL_BANK, f" {CENTRAL_BANK}\n", CENTRAL_BANK[:-4] + "1d3d"])
def test_a_pix_code_is_taken_as_it_is(code):
    assert pix_code(code) == code.strip()


def test_a_pix_code_whose_lengths_count_bytes_is_taken_too():
    code = with_checksum("00020126420014br.gov.bcb.pix0120teste@exemplo.com.br53039865802BR5905João")
    assert pix_code(code) == code


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "is not a Pix code"),
        ("teste@exemplo.com.br", "is not a Pix code; a 'copia e cola' begins with 000201"),
        ("https://pix.exemplo.com.br/qr/v2/1", "is not a Pix code"),
        (CENTRAL_BANK[:-1], "its last field is not a checksum"),
        (CENTRAL_BANK[:-8], "its last field is not a checksum"),
        (CENTRAL_BANK + "0", "its last field is not a checksum"),
        (CENTRAL_BANK[:-4] + "1D3E", "its checksum does not match"),
        (CENTRAL_BANK.replace("Fulano", "fulano"), "its checksum does not match"),
        (CENTRAL_BANK.replace(" ", ""), "its checksum does not match"),
        (with_checksum("000201"), "is not a Pix code: it is not in Brazilian reais"),
        (with_checksum("00020153038405802BR"), "is not a Pix code: it is not in Brazilian reais"),
        (with_checksum("00020153039865802PT"), "or not of Brazil"),
        (with_checksum("0002012610000601000053039865802BR"), "no account in it is of br.gov.bcb.pix"),
        (with_checksum("00020153039865902BR99"), "the lengths of its fields do not fit"),
    ],
)
def test_the_error_of_a_pix_code_says_what_is_wrong(code, reason):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is the case
        pix_code(code)
    assert reason in str(refused.value)


@given(st.integers(0, len(CENTRAL_BANK) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_pix_code_with_one_wrong_character_is_taken(place, character):
    wrong = CENTRAL_BANK[:place] + character + CENTRAL_BANK[place + 1 :]
    if wrong.lower() != CENTRAL_BANK.lower():
        with pytest.raises(ValueError, match=r"is not a Pix code|is cut off or changed"):
            pix_code(wrong)


@given(st.text(max_size=300) | st.text(max_size=200).map(lambda text: f"000201{text}63041D3D"))
def test_any_text_is_a_pix_code_or_refused(text):
    with contextlib.suppress(ValueError):
        assert pix_code(text) == text.strip()


@pytest.mark.parametrize("digits", [BOLETO, *BILLS])
def test_a_line_of_digits_is_taken_however_it_is_spaced(digits):
    assert boleto_line(digits) == digits
    assert boleto_line(f" {spaced(digits)} ") == digits


def test_a_line_is_printed_as_bills_print_it():
    assert spaced(BOLETO) == "00190.50095 40144.816069 06809.350314 3 37370000000100"
    assert spaced(BILLS[0]) == "83620000000-5 66780048100-0 18097565731-3 00158963608-1"


@pytest.mark.parametrize("digits", [BOLETO, *BILLS])
def test_no_line_with_one_wrong_digit_is_taken(digits):
    for place, digit in enumerate(digits):
        wrong = digits[:place] + str((int(digit) + 1) % 10) + digits[place + 1 :]
        with pytest.raises(ValueError, match=r"wrong digit|not a linha"):
            boleto_line(wrong)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "may have digits"),
        ("0019050095401448160690680935031433737000000010O", "may have digits"),
        ("٠" * 47, "may have digits"),
        (BOLETO[:-1], "it has 46 digits, not 47, or 48 that begin with 8"),
        ("1" + BILLS[0][1:], "it has 48 digits, not 47, or 48 that begin with 8"),
        ("00193373700000001000500940144816060680935031", "is the number of the bar code (44 digits)"),
        (BOLETO[:9] + "0" + BOLETO[10:], "the check digit of its first field does not match"),
        (BOLETO[:32] + "4" + BOLETO[33:], "the check digit of the whole line does not match"),
        (BILLS[1][:23] + "1" + BILLS[1][24:], "the check digit of block 2 does not match"),
    ],
)
def test_the_error_of_a_boleto_line_says_what_is_wrong(line, reason):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is the case
        boleto_line(line)
    assert reason in str(refused.value)
