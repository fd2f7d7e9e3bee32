"""What lies on disk, whatever it holds: files that appear whole or not at all, locks, JSON that is read strictly.

Rooms: `atomic` (whole files, and what a full disk says), `locks` (one writer a folder), `strict_json`, `hashing` (the
checksum of a file), `run_layout` (the names of all files and folders of a run).
"""
