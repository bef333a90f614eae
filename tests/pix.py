"""Pix codes with valid checksums for tests."""

import binascii


def pix(key: str = "teste@exemplo.com.br") -> str:
    """A static "copia e cola" code for this key of 1 to 77 characters."""
    account = f"0014br.gov.bcb.pix01{len(key):02}{key}"
    return with_checksum(f"00020126{len(account):02}{account}5204000053039865802BR5913Fulano de Tal62070503***")


def with_checksum(fields: str) -> str:
    """These fields followed by their checksum field."""
    code = f"{fields}6304"
    return code + f"{binascii.crc_hqx(code.encode(), 0xFFFF):04X}"
