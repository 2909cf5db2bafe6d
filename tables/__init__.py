"""The papers' tables: their rows as settings (rows.py), and what models cost (costs.py)."""
