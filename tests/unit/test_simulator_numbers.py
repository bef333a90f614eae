import pytest

from ifinu.simulator import numbers


@pytest.mark.parametrize(
    ("asked", "looked_up", "known_as"),
    [
        ("5511987654321", "5511987654321@s.whatsapp.net", "5511987654321@s.whatsapp.net"),
        ("+55 (11) 98765-4321", "5511987654321@s.whatsapp.net", "5511987654321@s.whatsapp.net"),
        # area code below 31: the ninth digit is added
        ("551187654321", "551187654321@s.whatsapp.net", "5511987654321@s.whatsapp.net"),
        # area code 31 and above: it is dropped
        ("5585987654321", "558587654321@s.whatsapp.net", "558587654321@s.whatsapp.net"),
        ("558587654321", "558587654321@s.whatsapp.net", "558587654321@s.whatsapp.net"),
        # ... but not before a 6, in either direction
        ("5585967654321", "5585967654321@s.whatsapp.net", "5585967654321@s.whatsapp.net"),
        ("558567654321", "558567654321@s.whatsapp.net", "5585967654321@s.whatsapp.net"),
        # a landline has no ninth digit to add
        ("551133334444", "551133334444@s.whatsapp.net", "551133334444@s.whatsapp.net"),
        # Mexico and Argentina lose their third digit
        ("5215512345678", "525512345678@s.whatsapp.net", "525512345678@s.whatsapp.net"),
        ("5491123456789", "541123456789@s.whatsapp.net", "541123456789@s.whatsapp.net"),
        # no country code is guessed
        ("11987654321", "11987654321@s.whatsapp.net", "11987654321@s.whatsapp.net"),
        ("abc", "@s.whatsapp.net", "@s.whatsapp.net"),
        # a JID skips the matching
        ("551187654321@s.whatsapp.net", "551187654321@s.whatsapp.net", "551187654321@s.whatsapp.net"),
        ("123456@lid", "123456@lid", "123456@lid"),
        ("120363025246125486", "120363025246125486@g.us", "120363025246125486@g.us"),
    ],
)
def test_a_number_means_the_account_that_whatsapp_says(asked, looked_up, known_as):
    assert numbers.jid(asked) == looked_up
    assert numbers.canonical(asked) == known_as
