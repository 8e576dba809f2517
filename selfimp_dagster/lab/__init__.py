"""The failure lab: failures made on purpose in real campaigns, and whether a monitor catches them.

Whatever is faulty here is faulty within a context of this package alone: no campaign file can name it.
"""
