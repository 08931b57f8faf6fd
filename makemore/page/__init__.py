"""A page to play with a trained network, in one file for any browser (beyond the lecture)."""

from makemore.page.building import page_html as page_html
