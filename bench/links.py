"""How long a message takes between two processes: one link on loopback, echoed back. Run: python
bench/links.py
"""
