"""The diode protocol both ends agree on (WIRE_FORMAT.md is normative).

Pure: no sockets, files, clocks, randomness or logs of its own. Time, random bytes and buffers are arguments;
what happened comes back as values. The unit of work is the burst, a buffer of equal datagrams.
"""
