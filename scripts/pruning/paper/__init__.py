"""What reproduces the paper and no other part needs: its analyses, tables and figures."""
