"""One page of a trained run: its curves, its numbers, and the experts that every token chose.

    words     tokens as they are shown
    data      traces as compact arrays for a browser
    charts    curves as SVG
    takers    which expert takes most of each kind of token
    page      all of it in one file that needs no network

The page's own code stands beside them: page.html, page.css, and the scripts of `page.SCRIPTS`.
"""
