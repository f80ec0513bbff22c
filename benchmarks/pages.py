"""Insertion of tables into pages, between two comments that name them."""


def insert(page: str, name: str, content: str) -> str:
    """The page with `content` between ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises:
      ValueError: the page does not have both comments, once, in this order.

    Examples:
      >>> insert("a <!-- n --> old <!-- end of n --> b", "n", " new ")
      'a <!-- n --> new <!-- end of n --> b'
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, opening, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not opening or not closing or begin in rest or end in before + after:
        raise ValueError(f"The page needs {begin} and {end}, once each.")
    return f"{before}{begin}{content}{end}{after}"
