"""The connected side: fetch (Internet, no signing key) and transmit (signing key, no Internet).

The two roles are processes of their own and meet only in files: the spool and the journal.
"""
