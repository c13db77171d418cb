"""The isolated side: capture (the diode's socket, no other network) and publish (the registry, no diode).

The two roles are processes of their own and meet only in files: the spool and the journal.
"""
