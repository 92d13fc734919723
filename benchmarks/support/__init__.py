"""Pieces that several experiments share: photographs, peers, rows of CSV files, charts."""
