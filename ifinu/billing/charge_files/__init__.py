"""Files of charges: exports of ERPs and spreadsheets, and the payments that a bank returns (CNAB)."""
