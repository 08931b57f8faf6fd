"""A recipe that needs a two-hundredth of the lecture's steps (beyond the lecture)."""
