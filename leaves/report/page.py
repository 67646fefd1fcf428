"""Rearrange the rendered chapters into the page: a cover, contents, each chapter's finding on top, and folded code."""

import re
from html import escape

from bs4 import BeautifulSoup, NavigableString

# The sections of the cover, in their order: the tag of the cell that makes the section, and the section's heading.
SLOTS = {
    "cover-answer": "",
    "cover-scores": "",
    "cover-table": "Scores and costs",
    "cover-mistakes": "Where the best model fails",
    "cover-photos": "Does it hold on other photos?",
    "cover-claims": "Which claims of the original study hold?",
    "cover-data": "The data",
}
LONGEST_OPTION = 24  # code of at most this many characters stays on one line
LONG = 16  # a word with at least this many characters may be broken after _ and /
CARDS_FROM = 4  # with at least this many columns, the rows of a table become cards on a phone
PLACE = "<!--{}-->"


def finish_page(html):
    """Move outputs to the cover, fold the code of the chapters, and add anchors and the table of contents.

    Parameters
    ----------
    html : str
        The rendered chapters. A comment such as ``<!--cover-table-->`` marks the place of each section of the cover,
        and ``<!--contents-->`` marks the place of the table of contents.

    Returns
    -------
    str, the finished HTML
    """
    soup = BeautifulSoup(html, "html.parser")
    main = soup.find("main")
    label_cells(soup)
    guard_breaks(soup)
    slots = {slot: move_to_cover(soup, slot, title) for slot, title in SLOTS.items()}
    for found in main.select("section.in-short"):
        move_answer(soup, found)
    for setup in main.select("section.setup"):  # these cells print versions; the page lists them at its end
        for area in outputs_of(setup):
            area.decompose()
    fold_code(soup, main)
    keep_short_code(soup)
    contents = name_headings(soup, main)
    contents.insert(0, entry_of_cover(soup, slots))
    for link in soup.find_all("a", href=re.compile(r"^0\d_\w+\.ipynb$")):
        link["href"] = f"#chapter-{int(link['href'][:2])}"
        if not soup.find(id=link["href"][1:]):  # a chapter that was not executed
            link.unwrap()
    page = str(soup).replace(PLACE.format("contents"), str(contents))
    for slot, content in slots.items():
        page = page.replace(PLACE.format(slot), content)
    return page


def outputs_of(section):
    """List the elements that show a cell's outputs; an element inside another one is not listed."""
    found = section.select(".output_subarea, figure, .table, pre.text")
    return [area for area in found if not any(parent in found for parent in area.parents)]


def move_to_cover(soup, slot, title):
    """Remove the outputs of the cells with the tag `slot`; return them as HTML with a heading, "" if there are none."""
    areas = [area for section in soup.select(f"section.{slot}") for area in outputs_of(section)]
    if not areas:
        return ""
    heading = f"<h2>{title}</h2>" if title else ""
    return f'<section id="{slot}">{heading}{"".join(str(area.extract()) for area in areas)}</section>'


def move_answer(soup, section):
    """Move the finding at a chapter's end to a box below the chapter's title; remove the heading above the finding."""
    title = section.find_previous("h1")
    heading = section.find_previous("h2")
    areas = outputs_of(section)
    if not title or not areas:
        return
    box = soup.new_tag("div", attrs={"class": "in-short"})
    name = soup.new_tag("strong")
    name.string = "In short"
    box.append(name)
    for area in areas:
        box.append(area.extract())
    title.insert_after(box)
    if heading and heading.find_previous("h1") is title:
        heading.decompose()


def keep_short_code(soup):
    """Mark short code in sentences, such as an option, so the page does not break it at a hyphen."""
    for code in soup.select("p code, li code"):
        if len(code.get_text()) <= LONGEST_OPTION:
            code["class"] = [*code.get("class", []), "short"]


def fold_code(soup, main):
    """Fold each section's code and logs into one <details> element below the heading; remove cells without output."""
    pending, heading = [], None

    def close(before):
        if not pending:
            return
        bar, name = soup.new_tag("details", attrs={"class": "code"}), soup.new_tag("summary")
        name.string = "Code"
        bar.append(name)
        for fold in pending:
            fold.summary.decompose() if "code" in fold["class"] else None
            for child in [fold] if fold.summary else [*fold.contents]:
                bar.append(child.extract())
        (heading or before).insert_after(bar)
        pending.clear()

    last = None
    for child in [*main.find_all(["h1", "h2", "section", "p", "ul"], recursive=False)]:
        if child.name in ("h1", "h2") or child.get("id"):
            close(last)
            heading = child if child.name == "h2" else None
        elif child.name == "section" and "parameters" not in child.get("class", []):
            pending += [fold.extract() for fold in child.select("details.code, details.log")]
            if not child.get_text(strip=True) and not child.find(["img", "svg"]):
                child.decompose()
                continue
        last = child
    close(last)


def label_cells(soup):
    """Mark wide tables and label their cells, so a phone can show rows as cards; give the row of each claim an id."""
    for table in soup.select("table:not(.confusion)"):
        header = table.select("thead tr:first-child > *")
        names = [cell.get_text(strip=True) for cell in header]
        is_plain = all(cell.get("colspan", "1") == "1" for cell in header)
        if is_plain and len(names) >= CARDS_FROM and "cards" not in table.get("class", []):
            table["class"] = [*table.get("class", []), "cards"]
        if "cards" not in table.get("class", []):
            continue
        for row in table.select("tbody tr"):
            for name, cell in zip(names, row.find_all(["th", "td"], recursive=False), strict=False):
                if cell.name == "td" and cell.get_text(strip=True):
                    cell["data-label"] = name
    for row in soup.select("table.claims tbody tr"):
        row["id"] = f"claim-{row.th.get_text(strip=True)}"


def guard_breaks(soup):
    """Keep numbers and their % on one line, and let long words in tables break after _ and /."""
    for text in soup.find_all(string=re.compile(r"\d ?%")):
        if (
            type(text) is NavigableString
            and not text.find_parent(["code", "script", "style"])
            and not text.find_parent(class_="highlight")
        ):
            text.replace_with(re.sub(r"(?<=\d) ?%(?!\w)", "\N{NO-BREAK SPACE}%", text))
    for cell in soup.select("table.text td"):
        for text in cell.find_all(string=re.compile(rf"\S{{{LONG},}}")):
            if type(text) is not NavigableString:  # a comment
                continue
            words = re.split(rf"(\S{{{LONG},}})", text)
            words[1::2] = [re.sub("([_/]+)", r"\1<wbr>", escape(word)) for word in words[1::2]]
            words[::2] = map(escape, words[::2])
            text.replace_with(BeautifulSoup("".join(words), "html.parser"))


def anchor_name(title):
    """Convert a heading to the name of an anchor: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def entry_of_cover(soup, slots):
    """Make the first entry of the contents: a list item with links to the cover and to the cover's sections."""
    sections = {f"#{slot}": title for slot, title in SLOTS.items() if title and slots[slot]}
    sections |= {f"#{found['id']}": found.h2.get_text() for found in soup.select("#cover > section[id]")}
    links = "".join(f'<li><a href="{place}">{escape(title)}</a></li>' for place, title in sections.items())
    return BeautifulSoup(f'<li><a href="#cover-title">Summary</a><ol>{links}</ol></li>', "html.parser").li


def name_headings(soup, main):
    """Give the headings of the chapters unique anchors, and return the contents: a nested HTML list of links."""
    contents = soup.new_tag("ol")
    chapter_list, chapter = None, ""
    for heading in main.find_all(["h1", "h2"]):
        if heading.find_parent(id="cover"):
            continue
        if link := heading.find("a", class_="anchor-link"):
            link.extract()
        title = heading.get_text()
        if heading.name == "h1":
            number, dot, _ = title.partition(".")
            chapter = f"chapter-{number}" if dot else anchor_name(title)
            heading["id"], parent = chapter, contents
            chapter_list = soup.new_tag("ol")
        else:
            heading["id"] = f"{chapter}-{anchor_name(title)}"
            parent = chapter_list
        item, anchor = soup.new_tag("li"), soup.new_tag("a", href=f"#{heading['id']}")
        anchor.string = title
        item.append(anchor)
        parent.append(item)
        if heading.name == "h1":
            item.append(chapter_list)
    return contents
