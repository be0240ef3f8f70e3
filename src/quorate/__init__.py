"""Quorate: a key management service in which every domain key is split over a fleet of HSM nodes."""
