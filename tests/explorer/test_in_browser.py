"""The page in Chromium: what is seen, what keys do, how long it takes, and that text stays text."""

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.explorer import cases

ONE = (cases.traces(), 8)
OTHER = (cases.traces(layers=2, k=1, experts=40, seed=1), 40)
TAKEN = (cases.taken(5), 8)
# ms of each of nine moves of the slider, with the layout that follows.
MOVES = """
const slider = document.querySelector('.layer input');
return Array.from({length: 9}, (_, i) => {
  const before = performance.now();
  slider.value = i % 2;
  slider.dispatchEvent(new Event('input'));
  document.body.getBoundingClientRect();
  return performance.now() - before;
});
"""
TOKENS = ".text .token"


class Page:
    """A page that is open."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        WebDriverWait(driver, 20).until(lambda _: self.js("return document.body.dataset.ready"))

    def js(self, script, *given):
        return self.driver.execute_script(script, *given)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def each(self, selector, what):
        """What JavaScript says of every element x."""
        script = f"return Array.from(document.querySelectorAll(arguments[0]), x => {what})"
        return self.js(script, selector)

    def texts(self, selector):
        return self.each(selector, "x.textContent")

    def text(self, selector):
        (found,) = self.texts(selector)
        return found

    def numbers(self, pane=0):
        """The experts that the tokens on the page have."""
        found = self.each(f".pane:nth-child({pane + 1}) {TOKENS}", "x.dataset.e")
        return [int(number) for number in found]

    def give(self, selector, value, event="change"):
        """As if someone had set a control."""
        self.js(
            "const found = document.querySelector(arguments[0]); found.value = arguments[1];"
            "found.dispatchEvent(new Event(arguments[2]));", selector, value, event,
        )  # fmt: skip

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self):
        return self.driver.switch_to.active_element

    def tab_to(self, matches):
        """By keys alone."""
        for _ in range(30):
            self.press(Keys.TAB)
            if self.js("return document.activeElement.matches(arguments[0])", matches):
                return self.focused()
        raise AssertionError(f"Tab does not reach {matches}")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    some = {"one": (ONE,), "both": (ONE, OTHER), "taken": (TAKEN,), "dense": ()}
    return {name: cases.written(folder / f"{name}.html", *runs) for name, runs in some.items()}


@pytest.fixture
def opened(chromium, addresses):
    """Opens a page; afterwards the console has no error, and nothing was asked of a network."""

    def opening(name):
        return Page(chromium, addresses[name])

    yield opening
    assert chromium.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map(x => x.name)"
    assert chromium.execute_script(loaded) == []


def test_tokens_have_the_colours_of_their_experts(opened):
    page = opened("one")
    for layer in (0, 2):
        page.give(".layer input", layer, "input")
        shown = page.numbers()
        assert shown == ONE[0].expert_LNK[layer, : len(shown), 0].tolist()
        pairs = {*zip(shown, page.each(TOKENS, "getComputedStyle(x).backgroundColor"), strict=True)}
        assert len(pairs) == 8 == len({colour for _, colour in pairs})
    assert page.text(".layer output") == "2 of 0–2"


def test_the_slider_recolours_in_50_ms(opened):
    """The median, since other programs run beside the tests."""
    page = opened("one")
    assert len(page.numbers()) == 500
    assert sorted(page.js(MOVES))[4] < 50


def test_text_stays_text(opened):
    page = opened("one")
    assert page.driver.title == "run 0 <b>" and page.texts("h1") == ["run 0 <b>"]
    assert not page.all(".text img, .text script, .text b, h1 b, h3 b")
    shown = page.texts(TOKENS)[: len(cases.WORDS)]
    assert shown[:5] == [cases.EVIL[0], "<!--", "&lt;b&gt;", "\"'", "{{data}}"]
    assert shown[6:] == ["\\u202e", "\\u200b", "\\x00\\x1b", "\\u2028", "\\xe2\\x80", "\\x99",
                         "·the", "↵", "·router", "⇥"]  # fmt: skip
    assert page.texts("#domain option") == ["all", *cases.DOMAINS]


def test_pointing_tells_experts_and_gates(opened):
    page = opened("one")
    token = page.all(TOKENS)[12]
    ActionChains(page.driver).move_to_element(token).perform()
    told = page.text(".told")
    first, second = ONE[0].gate_LNK[0, 12]
    experts = ONE[0].expert_LNK[0, 12]
    assert told.startswith(f"·the{experts[0]}gate {first:.2f}{experts[1]}gate {second:.2f}")
    assert "document 0, one; id 12, bytes 20 74 68 65; predicts ·the" in told
    by_layer = " ".join(map(str, ONE[0].expert_LNK[:, 12, 0]))
    assert told.endswith(f"first choices by layer: {by_layer}")
    assert token.get_attribute("aria-label").startswith(f"·the: expert {experts[0]} with gate")


def test_keys_are_enough(opened):
    page = opened("one")
    page.tab_to("#numbered")
    slider = page.tab_to(".layer input")
    assert page.js("return getComputedStyle(document.activeElement).outline").endswith("solid 3px")
    page.press(Keys.ARROW_RIGHT)
    assert slider.get_attribute("value") == "1"
    assert page.numbers()[:50] == ONE[0].expert_LNK[1, :50, 0].tolist()
    token = page.tab_to(TOKENS)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.focused() == page.all(TOKENS)[1]
    page.press(Keys.ARROW_DOWN)
    assert page.all(TOKENS).index(page.focused()) > 2
    page.press(Keys.ARROW_UP, Keys.HOME)
    assert page.focused() == token
    page.press(Keys.END, Keys.ARROW_RIGHT)
    assert page.text("#place") == "2 of 4" and page.focused() == page.all(TOKENS)[0]
    page.press(Keys.PAGE_UP)
    assert page.text("#place") == "1 of 4"
    page.tab_to(".experts input")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.text(".tops p").startswith("Expert 1 in MoE layer 1")
    page.tab_to(".tops button")
    page.press(Keys.ENTER)
    assert page.text("#found").startswith("1 of ")
    page.press("/")
    assert page.focused().get_attribute("id") == "query"


def test_the_words_of_an_expert(opened):
    page = opened("one")
    page.all(".experts input")[4].click()  # after "all", 0, 1 and 2
    has_N = (ONE[0].expert_LNK[0] == 3).any(-1)
    lit = page.each(TOKENS, "!x.matches('.dim')")
    assert lit == has_N[: len(lit)].tolist()
    count, share = {}, {}
    for word, text in enumerate(page.texts(TOKENS)[: len(cases.WORDS)]):
        of_word = has_N[ONE[0].token_N == word]
        count[text] = int(of_word.sum())
        share[text] = of_word.mean() / has_N.mean()
    cells = "Array.from(x.rows, row => Array.from(row.cells, cell => cell.textContent))"
    often, above = page.each(".tops tbody", cells)
    assert [int(row[1]) for row in often] == sorted(count.values(), reverse=True)[:10]
    assert all(int(row[1]) == count[row[0]] for row in often)
    largest = sorted(share.values(), reverse=True)[:10]
    assert [float(row[3]) for row in above] == pytest.approx(largest, abs=0.006)
    page.all(".tops button")[0].click()
    assert often[0][0] == "·the" == page.text(".text .here")
    assert page.text("#found") == f"1 of {(ONE[0].token_N == cases.OFTEN).sum()}"


def test_which_expert_takes_what(opened):
    """Of chance in layer 0; in layer 1 expert 5 takes a word. Keys show it in the text."""
    page = opened("taken")
    rows = page.each(".takers tbody tr", "Array.from(x.cells, cell => cell.textContent)")
    (often,) = (row for row in rows if row[0].startswith("<i>"))
    is_often_N = TAKEN[0].token_N == cases.OFTEN
    share = (TAKEN[0].expert_LNK[1, :, 0] == 5).mean()
    assert often[0] == f"<i>{is_often_N.sum()} tokens"
    assert often[2].startswith(f"expert 5 takes 100% of it, {share:.0%} of all: more than chance")
    others = [row[layer] for row in rows if len(row) == 4 for layer in (1, 3)]
    assert len(others) == 8 and all("of all: not more than chance" in cell for cell in others)
    page.tab_to(".takers button")
    page.press(Keys.TAB, Keys.ENTER)
    assert page.text(".layer output") == "1 of 0–2"
    assert page.text(".tops p").startswith("Expert 5 in MoE layer 1")
    assert page.each(TOKENS, "x.matches('.hit')") == is_often_N[:500].tolist()
    assert page.text("#found") == f"1 of {is_often_N.sum()}"
    assert page.focused() == page.all(TOKENS)[cases.OFTEN]


def test_a_text_is_found_wherever_tokens_are_cut(opened):
    page = opened("one")
    whole = [b"".join(cases.WORDS[i] for i in ONE[0].token_N[first : first + cases.LENGTH])
             for first in range(0, 2000, cases.LENGTH)]  # fmt: skip
    for query, first in (("the↵·r", [12, 13, 14]), ("</script>", [0]), ("'{{d", [3, 4])):
        page.give("#query", query, "input")
        spelled = query.replace("↵", "\n").replace("·", " ").encode()
        count = sum(document.count(spelled) for document in whole)
        assert page.text("#found") == str(count)
        hits = page.each(TOKENS, "x.matches('.hit')")
        assert [i for i in range(16) if hits[i]] == first
    page.give("#query", "the↵ r", "input")
    for _ in range(2):
        page.all("#next")[0].click()
    assert page.text("#found").startswith("2 of ")
    assert page.all(TOKENS).index(page.all(".text .here")[0]) == 12 + len(cases.WORDS)


def test_domains_and_documents(opened):
    page = opened("one")
    page.give("#domain", 1)
    assert {*page.texts(".piece")} == {f"document {d} · <two>" for d in (1, 3, 5, 7, 9)}
    assert page.text("#place") == "1 of 2"
    page.give("#document", 15)
    assert page.text("#place") == "2 of 2" and "document 15, <two>" in page.text(".told")


def test_side_by_side(opened):
    page = opened("both")
    assert page.texts("h3") == ["run 0 <b>", "run 1 <b>"]
    for pane, (traces, _) in enumerate((ONE, OTHER)):
        assert page.numbers(pane) == traces.expert_LNK[0, :500, 0].tolist()
    left, right = page.all(".text")
    assert left.location["y"] == right.location["y"] and left.location["x"] < right.location["x"]
    page.js("document.querySelectorAll('.text .token')[7].focus()")
    assert [i for i, here in enumerate(page.each(TOKENS, "x.matches('.here')")) if here] == [7, 507]


def test_forty_experts_in_eight_colours(opened):
    """A hatch for each eight, and a number in the text."""
    page = opened("both")
    painted = page.each(".experts .swatch", "getComputedStyle(x).background")
    assert len({*painted[8:40]}) == 32 and len({*painted[:8]}) == 8
    shown = page.each(TOKENS, "getComputedStyle(x, '::after').content")
    assert shown[500:] == [f'"{number}"' for number in page.numbers(1)]


def test_dark_and_light(opened):
    page = opened("dense")
    back = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page = opened("dense")
        seen[scheme] = page.js(back)
    page.all("#theme")[0].click()
    assert page.js(back) == seen["light"] != seen["dark"]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
