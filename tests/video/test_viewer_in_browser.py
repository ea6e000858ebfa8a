"""The page in a real Chromium. Each picture shows its number in bars, so that the film itself says which one it is."""

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from vlmreward.video.viewer import Curve, ShownEpisode, write_viewer

FRAMES = 60
NUMBER_OF_PICTURE = """
function picture(video) {  // the number that the film shows
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const pen = canvas.getContext("2d");
  pen.drawImage(video, 0, 0);
  let number = 0;
  for (let bit = 0; bit < 8; bit++) number |= (pen.getImageData(12 + 10 * bit, 24, 1, 1).data[0] > 128) << bit;
  return number;
}
const shown = () => document.querySelector("section:not([hidden])");
const cursors = () => [...shown().querySelectorAll(".cursor")].map(line => Number(line.dataset.frame));
const said = () => Number(shown().querySelector(".status").dataset.frame);
const settled = () => !shown().querySelector("video").seeking && shown().querySelector("video").readyState >= 2;
// The picture, the cursor of each plot and the status line, once the film has come to where it was sent.
async function look() {
  while (!settled()) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return [picture(shown().querySelector("video")), ...new Set(cursors()), said()];
}
"""
NO_CALLBACK = "delete HTMLVideoElement.prototype.requestVideoFrameCallback;"


def numbered(number, offset=0):
    picture = np.full((64, 96, 3), 90, np.uint8)
    for bit in range(8):
        picture[8:40, 8 + bit * 10 : 16 + bit * 10] = 255 * ((number + offset) >> bit & 1)
    return picture


def wave(phase=0.0, count=FRAMES):
    return np.sin(np.arange(count) / 9 + phase).astype(np.float32)


@pytest.fixture
def page(tmp_path):
    """Write a page of two episodes; frame 7 of the first was lost, and the reward of its frame 40 jumps."""
    jumping = wave() * 0.1
    jumping[40:] += 1
    jumping[7] = np.nan
    first = [
        Curve("first goal", "reward", jumping, {7: "could not be decoded: cut off"}, "about it"),
        Curve("first goal", "progress", np.linspace(0, 1, FRAMES, dtype=np.float32)),
        Curve("second goal", "reward", wave(2) * 5),
    ]

    def write(fps=20.0):
        pictures = ("could not be decoded: cut off" if i == 7 else numbered(i) for i in range(FRAMES))
        episodes = [
            ShownEpisode("one", "push it", pictures, first),
            ShownEpisode("two", "", (numbered(i, 100) for i in range(9)), [Curve("a", "reward", wave(count=9))]),
        ]
        write_viewer(tmp_path / "page.html", "title", episodes, fps)
        return tmp_path / "page.html"

    return write


@pytest.fixture
def opened(browser, page):
    """Open the page, with what reads the film in it."""

    def open_page(fps=20.0, before=""):
        browser.open(page(fps), before)
        browser.run(NUMBER_OF_PICTURE.replace("const ", "var "))
        browser.wait("settled()")
        return browser

    yield open_page
    assert browser.complaints == []
    assert [url for url in browser.asked if not url.startswith("file:")] == []
    assert len(browser.asked) == 1  # the page itself, and nothing else


@pytest.mark.parametrize("fps", [20.0, 29.97, 7.3])
def test_keys_step_to_the_very_frame_and_the_cursor_goes_with_it(opened, fps):
    browser = opened(fps)
    assert browser.run("look()") == [0, 0, 0]
    for frame in (1, 2, 3, 4):
        browser.press("ArrowRight")
        assert browser.run("look()") == [frame] * 3
    for key, shift, frame in (
        *(("ArrowLeft", False, 3), ("ArrowRight", True, 13), ("ArrowRight", True, 23), ("ArrowLeft", True, 13)),
        *(("End", False, 59), ("ArrowRight", False, 59), ("ArrowLeft", False, 58), ("Home", False, 0)),
        ("ArrowLeft", False, 0),
    ):
        browser.press(key, shift)
        assert browser.run("look()") == [frame] * 3, (key, frame)


def test_every_frame_of_the_film_is_reached(opened):
    browser = opened(29.97)
    seen = browser.run(
        "(async () => { const seen = []; for (let i = 0; i < 60; i++) { players[0].seek(i); seen.push(await look()); } "
        "return seen; })()"
    )
    assert seen == [[i if i != 7 else seen[7][0], i, i] for i in range(FRAMES)]


def test_keys_that_come_faster_than_the_film_are_all_counted(opened):
    browser = opened()
    for _ in range(25):
        browser.press("ArrowRight")
    assert browser.run("look()") == [25] * 3


@pytest.mark.parametrize("before", ["", NO_CALLBACK], ids=["frame callback", "without"])
def test_the_cursor_follows_the_film_while_it_plays(opened, before):
    """Read at each picture of the screen: never more than one frame apart, and with the callback hardly ever."""
    browser = opened(before=before)
    assert browser.run("'requestVideoFrameCallback' in HTMLVideoElement.prototype") == (before == "")
    browser.run(
        "var read = []; function note() { const v = players[0].video; if (!v.paused && !v.seeking) "
        "read.push([picture(v), cursors()[0]]); requestAnimationFrame(note); } note();"
    )
    began = time.monotonic()
    browser.press(" ")
    browser.wait("cursors()[0] >= 35")
    took = time.monotonic() - began
    browser.press(" ")
    assert 35 / 20 - 0.3 < took < 35 / 20 + 2  # at its own speed
    read = [pair for pair in browser.run("read") if pair[1] != 7 and pair[0] != 7]
    apart = np.array([film - cursor for film, cursor in read])
    assert len({cursor for _, cursor in read}) > 20  # it went along, and did not jump to the end
    assert np.abs(apart[np.array([cursor for _, cursor in read]) > 8]).max() <= 1
    if not before:
        assert (apart == 0).mean() > 0.8
    assert browser.run("read.length") > 60  # the screen's pictures, more than the film's
    film, cursor, status = browser.run("look()")
    assert film == cursor == status  # at rest they agree
    browser.press("ArrowRight")
    assert browser.run("look()") == [film + 1] * 3


def test_a_film_at_its_last_frame_comes_to_rest(opened):
    """Sent there, Chromium says that it has ended; whoever answers with another seek never stops."""
    browser = opened(29.97)
    browser.run("var seeks = 0; players[0].video.addEventListener('seeking', () => seeks++)")
    browser.press("End")
    assert browser.run("look()") == [59] * 3
    time.sleep(0.3)
    assert browser.run("seeks") == 1


def test_at_the_end_the_film_stops_at_the_last_frame_and_starts_anew(opened):
    browser = opened()
    browser.press("End")
    browser.press("ArrowLeft")
    assert browser.run("look()") == [58] * 3
    browser.press(" ")
    browser.wait("players[0].frame === 59 && players[0].video.paused")
    assert browser.run("look()") == [59] * 3
    browser.press(" ")
    browser.wait("players[0].frame > 3 && players[0].frame < 50")
    assert not browser.run("players[0].video.paused")


def test_a_click_on_a_curve_or_a_surprising_frame_goes_there(opened):
    browser = opened()
    share = (58 + 30 / 59 * (720 - 58 - 14)) / 720  # where frame 30 is drawn
    browser.click_on("svg[data-kind=progress]", share)
    assert browser.run("look()") == [30] * 3
    assert browser.run("document.querySelector('.jumps button').textContent").startswith("40: +0.99")
    browser.click_on(".jumps button")
    assert browser.run("look()") == [40] * 3
    assert browser.run("document.querySelector('.jumps button').getAttribute('aria-current')") == "true"
    browser.press(" ")  # the space bar is the film's, though a button was clicked last
    browser.wait("players[0].frame > 45")


def test_the_value_pointed_at_is_read_and_the_cursor_stays(opened):
    browser = opened()
    browser.press("ArrowRight")
    browser.move(*browser.place_of("svg[data-kind=progress]", (58 + 50 / 59 * 648) / 720))
    cells = "[...shown().querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    head, first, second = browser.run(cells)
    assert head == ["at frame 50, pointed at", "reward", "progress"]
    assert first[0] == "first goal"
    assert float(first[1]) == pytest.approx(1 + 0.1 * np.sin(50 / 9), rel=1e-3)
    assert float(first[2]) == pytest.approx(50 / 59, rel=1e-3)
    assert float(second[1].replace("−", "-")) == pytest.approx(5 * np.sin(50 / 9 + 2), rel=1e-3)
    assert browser.run("look()") == [1] * 3
    browser.move(5, 5)
    assert browser.run(cells)[0][0] == "at frame 1"


def test_a_lost_frame_says_why_and_leaves_a_gap(opened):
    browser = opened()
    lost = "document.querySelector('.lost')"
    for _ in range(7):
        browser.press("ArrowRight")
    browser.run("look()")
    assert browser.run(f"[{lost}.hidden, {lost}.textContent]") == [False, "could not be decoded: cut off"]
    assert "no label: could not be decoded: cut off" in browser.run("shown().querySelector('.status').textContent")
    browser.press("ArrowRight")
    assert browser.run("look()") == [8] * 3
    assert browser.run(f"{lost}.hidden")
    path = browser.run("document.querySelector('svg[data-kind=reward] path').getAttribute('d')")
    assert path.count("M") == 2
    assert path.count("L") == FRAMES - 1 - 2


def test_curves_can_be_hidden_and_put_on_scales_of_their_own(opened):
    browser = opened()
    paths = "[...shown().querySelectorAll('svg[data-kind=reward] path')].map(p => p.getBBox().height)"
    low, high = browser.run(paths)
    assert high > 5 * low
    browser.click_on(".own")
    low, high = browser.run(paths)
    assert low == pytest.approx(high, rel=0.02)
    browser.click_on("tbody tr:nth-child(2) input")
    assert len(browser.run(paths)) == 1
    browser.click_on("tbody tr:nth-child(2) input")
    assert len(browser.run(paths)) == 2
    pairs = (
        "[...shown().querySelectorAll('svg[data-kind] path')].map(p => [p.dataset.source, p.getAttribute('stroke')])"
    )
    colours = browser.run(pairs)
    assert len({tuple(pair) for pair in colours}) == 2  # a source has one colour in all plots, and no other has it


def test_episodes_take_turns_and_each_remembers_its_frame(opened):
    browser = opened()
    browser.press("ArrowRight")
    browser.press("PageDown")
    browser.wait("settled()")
    assert browser.run("look()") == [100, 0, 0]  # its pictures count from 100
    browser.press("End")
    assert browser.run("look()") == [108, 8, 8]
    browser.click_on("nav button:nth-child(1)")
    assert browser.run("look()") == [1] * 3
    assert browser.run("document.querySelectorAll('section:not([hidden])').length") == 1


def test_the_page_is_drawn(opened):
    browser = opened()
    picture = np.array(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert (np.abs(picture.astype(int) - colour).max(axis=2) < 12).sum() > 300, colour


def test_text_of_a_dataset_runs_nothing(browser, tmp_path):
    evil = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    curve = Curve(evil, "reward", wave(count=5), {1: evil}, evil)
    pictures = [numbered(0), evil, *[numbered(i) for i in range(3)]]
    write_viewer(tmp_path / "p.html", evil, [ShownEpisode(evil, evil, pictures, [curve])], 10)
    browser.open(tmp_path / "p.html")
    browser.press("ArrowRight")
    assert browser.run("window.hit ?? null") is None
    assert browser.run("document.querySelector('.lost').textContent") == evil
    assert browser.run("document.title") == evil
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.complaints == []


def test_a_film_that_cannot_be_played_is_said(browser, page):
    path = page()
    text = path.read_text()
    start = text.index("base64,") + len("base64,")
    broken = base64.b64encode(b"no film at all").decode()
    path.write_text(text[:start] + broken + text[text.index('"', start) :])
    browser.open(path)
    browser.wait("document.querySelector('.status').textContent.includes(\"can't play the film\")")
    assert json.loads(browser.run("JSON.stringify(players.length)")) == 2
