"""Pages as a browser reads them: elements that end, their text, and their pictures."""
import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from report import markup

# Names under which a browser may be installed; a test that wants one is skipped without.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Reader(HTMLParser):
    """The elements of a page; every end must belong to the last beginning."""

    def __init__(self):
        super().__init__()
        self.open = []                            # names of elements that have not ended
        self.elements = []                        # (name, attributes), in the order of the page
        self.text = []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in markup.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open, f"</{name}> ends something that never began"
        last = self.open.pop()
        assert last == name, f"</{name}> ends <{last}>"

    def handle_data(self, text):
        if "style" not in self.open:
            self.text.append(text)


def read(text):
    """A page, or a piece of one, as text -> Reader. Fails where an element is not ended."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open, f"never ended: {reader.open}"
    return reader


def shown(reader):
    """The text of a page as one line; cells of a table follow each other without a blank."""
    return re.sub(r"\s+", " ", "".join(reader.text))


def pictures(text):
    """The pictures inside a page, uint8 (H, W, 3) each, in its order."""
    found = []
    for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', text):
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        found.append(np.asarray(image.convert("RGB")))
    return found
