"""A page to explore a trained network in any browser, in one file."""

from makemore.page.building import page_html as page_html
