"""Quorate: a key management service whose keys exist only by quorum."""
