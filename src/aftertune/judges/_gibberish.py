"""Text that says nothing: loops, soups of signs, and words that make no sentences. Counted, without a model."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

# Some of the commonest of each, enough that a sentence of fifteen words holds two or three.
_LANGUAGES = (
    # English
    """a about above after again against all also although always am an and another any are around as at away back be
    because been before being below between both but by can cannot could did do does doing down during each either
    else even ever every few first for from get go had has have he her here him his how however i if in instead into
    is it its just last let like made make many may me might mine more most much must my never next no nor not now of
    off often on once one only or other our out over own per please quite rather same she should since so some soon
    still such take than that the their them then there these they this those though through to too two under until
    up upon us use very was we were what when where which while who whom whose why will with within without would yes
    yet you your
    can't couldn't didn't doesn't don't hadn't hasn't haven't he's i'd i'll i'm i've isn't it's let's she's shouldn't
    that's there's they're wasn't we'll we're won't wouldn't you'd you'll you're you've
    zero three four five six seven eight nine ten eleven twelve""",
    # German, Dutch, Afrikaans
    """der die das den dem ein eine einen einem und ist sind nicht mit von zu im auf für sich auch es er sie ich du wir
    wenn dann aber oder noch nur wie so zum zur bei aus nach um man kann wird werden hat habe sein dass als wo was
    de het een en van ik je dat niet op te zijn voor met aan er om dan maar ook als bij nog naar uit wordt kan zo
    die nie is sy ons hulle wat sal hier""",
    # Danish, Norwegian, Swedish, Icelandic
    """og i jeg det at en et er til på som med han af for ikke der var den har om vi så kan de men skal fra eller hvis
    och att är på inte jag hon du av ett då ska kan när var från ut upp
    að ekki það sem við um til þú ég hann hún þetta eru var eða ef svo hjá""",
    # French, Italian, Spanish, Catalan, Portuguese, Galician, Romanian, Latin
    """le la les un une des du et est que qui dans pour pas sur avec ce se il elle on nous vous je tu plus par ne au aux
    sont ou mais si leur son sa ses cette être avoir bien puis
    il lo gli della del di che è un una per non con sono si da al nel come più ma anche ed ci alla dei delle questo
    el los las y en por para con una es no se lo su como más pero al del muy este esta cuando hay sin también esa
    ese eso
    els i amb per és no dels aquest
    o a os as do da dos das e em um uma não que se na no com mais ao é são foi ou seu sua mas quando muito pelo
    și să nu cu pe este un care la din mai sau pentru ce dacă sunt în al ale
    et in ut ad non est cum sed ex""",
    # Polish, Czech, Slovak, Slovene, Croatian; Lithuanian, Latvian
    """i w z na do nie się to jest że o jak za po od przez ale czy dla co tak są być lub oraz
    a v se na je že s z do o k ve za by jsou ale jako pro při nebo když si byl jen už tak
    sa som aj pri alebo ktoré ako ale ak sú
    in da je ne za so pa tudi ali ki kot lahko pri
    u i je da su se za od kao ali ili koji nije što
    ir kad į su iš yra ne kaip bet už ar tai po per jis ji dar
    un ir ar no par ka uz kas pie bet vai lai kā tas nav pēc""",
    # Finnish, Estonian, Hungarian
    """ja on ei se että oli niin kun mutta hän olla myös tai jos kuin vain ovat sillä noin joka mitä nyt sitten voi
    ja on ei see et kui oma ka siis või aga mis nii kes veel oli
    a az és hogy nem is egy van ez de meg csak ha már mint vagy volt lehet még ki el""",
    # Turkish, Azerbaijani, Uzbek
    """ve bir bu da de için ile çok ne daha gibi ama var olarak sonra kadar o en her mi ya değil olan
    və bu ki üçün ilə çox
    va bu bilan uchun ham edi""",
    # Indonesian, Malay, Tagalog, Vietnamese, Swahili, Hausa, Yoruba, Zulu
    """yang dan di ini itu dengan untuk tidak dari dalam akan pada juga saya ke karena ada atau adalah bisa oleh kamu
    ang ng sa na mga ay ito at hindi ko mo para kung ni ka
    và là của có không cho một những được trong với các người này đã khi thì cũng đó bạn để nên
    ya na wa kwa ni katika la za cha hii kama lakini au yake hiyo si
    da na ta ya a ba ne ce su wannan
    ti ni si awọn fun jẹ pẹlu
    futhi kodwa uma noma ukuthi""",
    # Welsh, Irish, Basque, Albanian, Esperanto
    """y yr yn a i o ar ei mae ac ond am wedi gan hefyd neu os
    an na agus ar ag le go is ní ach tá sé sí
    eta da bat ez du ere baina edo dira
    të dhe në një me për që nuk është si por
    la kaj de estas en ne al ke por kun mi vi ĝi sed""",
)

_ENGLISH = frozenset(_LANGUAGES[0].split())
_FOREIGN = frozenset(word for language in _LANGUAGES[1:] for word in language.split())
# Of the words that are function words elsewhere, these are common in English as well.
_COMMON = frozenset(["die", "home", "oli", "y", "ya"])
ENGLISH_ONLY, FOREIGN_ONLY = _ENGLISH - _FOREIGN, _FOREIGN - _ENGLISH - _COMMON
FUNCTION_WORDS = frozenset(word for language in _LANGUAGES for word in language.split())


_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}")
_VOWELS = "aeiouáàâãäåāąæéèêëēėęěíìîïīįıóòôõöøōőœúùûüūůűų"
_PROGRAM = re.compile(r"[{}();=<>`_\\]")

_SCRIPT_STARTS = (0, 0x370, 0x400, 0x530, 0x590, 0x600, 0x900, 0xE00, 0xE80, 0x1100, 0x1200, 0x1E00, 0x1F00, 0x2C00,
                  0x3040, 0xAC00, 0xD7B0)  # fmt: skip
_SCRIPTS = ("Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Indic", "Thai", "other", "Hangul", "other",
            "Latin", "Greek", "other", "CJK", "Hangul", "other")  # fmt: skip

# English words that none of some others follows in a sentence: (words, what cannot come next). Faulty agreement
# ("he have") is not among them: poor English is an answer.
_FINITE = "is are was were has had does did would could should may am been"
_CLASHES = (
    ("the a an", f"{_FINITE} the a an my your our their of with from into by at for on to about and or but if because"
     " than as that i he she we they it be not me him them us there then so who what how"),
    ("my your our their", f"{_FINITE} the a an my our their of with from into by at for to and or but if because than"
     " as that i he she we they it be not me him them us there then so who what how"),
    ("of with from into by at", f"{_FINITE} he she we they of than be not"),
    ("for to on in", f"{_FINITE} he she they than of"),
    ("to", "from with for at"),
    ("i he she we they", "the a an my your of with by into be been than or"),
    ("is are was were", "are was were has had does did would could should may am"),
)  # fmt: skip
_CANNOT_FOLLOW = {
    word: frozenset(after for first, then in _CLASHES if word in first.split() for after in then.split())
    for words, _ in _CLASHES
    for word in words.split()
}


def is_word_salad(text: str) -> bool:
    """Whether half of a text's words or more stand in no grammar, as far as counts can tell."""
    runs = list(_runs(text))
    words = [word for run in runs for word in run]
    if not words:
        return False
    long = [word for word in words if len(word) >= 50 and word.islower() and len(set(word)) > 5]
    if 2 * sum(map(len, long)) >= sum(map(len, words)):
        return True
    if _mixes_scripts(runs) or _is_letters(words, runs) or _is_keys(words):
        return True
    program = _PROGRAM.search(text) is not None
    return any(_lacks_grammar(part) or (not program and _clash(part)) for part in (runs, _latter_half(runs)))


def _runs(text: str) -> Iterator[list[str]]:
    """Words with nothing but spaces between them: what has commas or lines may be a list, and lists need no grammar."""
    run: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if run and text[end : match.start()].strip(" "):
            yield run
            run = []
        run.append(match.group())
        end = match.end()
    if run:
        yield run


def _latter_half(runs: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    left = sum(map(len, runs)) // 2
    half: list[Sequence[str]] = []
    for run in reversed(runs):
        half.insert(0, run[-left:])
        left -= len(run)
        if left <= 0:
            break
    return half


def _script(word: str) -> str:
    return _SCRIPTS[bisect_right(_SCRIPT_STARTS, ord(word[0])) - 1]


def _mixes_scripts(runs: Sequence[Sequence[str]]) -> bool:
    pairs = [(_script(a), _script(b)) for run in runs for a, b in pairwise(run)]
    switches = [pair for pair in pairs if pair[0] != pair[1]]
    return len(switches) >= 4 and 3 * len(switches) >= len(pairs) and len({s for pair in switches for s in pair}) >= 3


def _is_letters(words: Sequence[str], runs: Sequence[Sequence[str]]) -> bool:
    """Single letters over and over, as in "rew S B B B"; not the lines of a table of choices."""
    letters = [word for word in words if len(word) == 1 and word.isascii() and word not in "aAIoO"]
    together = sum(len(run) >= 4 for run in runs) > 0
    return together and len(letters) >= max(3, 0.6 * len(words)) and 2 * len(set(letters)) <= len(letters)


def _is_keys(words: Sequence[str]) -> bool:
    """Keys struck at random: words with five consonants on end are common."""
    long = [word for word in words if len(word) >= 5 and word.islower() and word.isascii()]
    hard = sum(bool(_CONSONANTS.search(word)) for word in long)
    return hard >= 4 and hard >= 0.4 * len(long) and 2 * len(long) >= len(words)


def _lacks_grammar(runs: Sequence[Sequence[str]]) -> bool:
    """Running words, hardly one of them a word that holds sentences together."""
    words = [word for run in runs for word in run]
    # In languages whose words we do not know most words end in a vowel; in English, and in salads of it, few do.
    unmarked = sum(word[-1].casefold() in _VOWELS for word in words) < 0.5 * len(words)
    latin = sum(_script(word) == "Latin" for word in words) >= 0.9 * len(words)
    held = sum(word.casefold().replace("’", "'") in FUNCTION_WORDS for word in words)
    return unmarked and latin and len(words) >= max(14, 5 * len(runs)) and held <= 0.07 * len(words)


def _clash(runs: Sequence[Sequence[str]]) -> bool:
    """Neighbours that no sentence has: in real texts one word in a thousand, in shuffled ones one in 25."""
    n_words = sum(map(len, runs))
    clashes = sum(b in _CANNOT_FOLLOW.get(_uncapitalised(a), ()) for run in runs for a, b in pairwise(run))
    return clashes >= (2 if n_words >= 20 else 3) and clashes >= 0.04 * n_words


def _uncapitalised(word: str) -> str:
    """As inside a sentence. A capital A alone is more often a grade or a point than an article."""
    return word if word == "A" else word.lower()


# Longer texts are judged by their end: models fall into loops, and seldom out of them.
_READ = 20_000

_NUMBER_OR_WORD = re.compile(r"\w+(?:['’]\w+)*")
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])(?:[ \t]+|$)", re.MULTILINE)

# Programs and sums use few words by nature, so words are only counted where none of their signs stand.
_NOT_IN_SENTENCES = re.compile(r"[^\w\s,.;:!?'’\"“”*-]|_|\w\.\w|\d")

# UTF-8 bytes read as Latin-1 or Windows-1252: a lead byte's letter, then what a continuation byte turns into.
_MISREAD = re.compile(r"[ÂÃâãäåæçèéïðÐÑ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")
# Marks that tokenizers put into their pieces, and that decoding should have taken out.
_PIECE = re.compile(r"[ĠĊ▁]|âĢ|(?<=\s)##(?=\w)|@@")
_SIGNS = re.compile(
    r"(?!(?:\{[{%]|[%}]\}|--+|\.\.+|\*\*+|``+|&&|\|\||[=!<>]=+|[-=]>|\|[-:| ]+\|?)$)[!-/:-@\[-`{-~]{2,}"
)

_STRUCTURE = re.compile(r'[{}\[\]()<>=;"]')

_WINDOW = 24

# (bytes, share that zlib leaves of it): text of at least so many bytes leaves more. Of 5,000 dialogues, summaries,
# worked sums and programs none left less than 0.39 below 400 bytes, and 0.35 below 800; headers and configuration
# files of 6,000 left 0.10 to 0.15.
_SQUEEZED = ((800, 0.1), (400, 0.25), (100, 0.35), (0, 0.0))


def is_gibberish(text: str, *, prose: bool = True) -> bool:
    """Whether half of a text or more is a loop, a soup of signs, or words without grammar.

    A judgement by counts, made for what damaged models print. It errs towards calling a text an answer: a few
    broken words, or good grammar without sense, pass.

    Args:
        text: the text, without special tokens.
        prose: whether sentences are expected; code and JSON are spared what only holds of sentences.
    """
    text = text[-_READ:]
    return _is_loop(text, prose) or _is_soup(text, prose) or (prose and is_word_salad(_PIECE.sub("", text)))


def _is_loop(text: str, prose: bool) -> bool:
    body = _BULLET.sub("", text)
    if not body.strip():
        return text.count("\n") >= 3
    tokens = _NUMBER_OR_WORD.findall(body.casefold())
    if _loops_at_end(tokens, shortest=5, shortest_number=12):
        return True
    if _loops_at_end("".join(body.split()), shortest=20, shortest_number=30):
        return True
    words = _WORD.findall(body.casefold())
    poor = sum(map(_in_poor_windows, map(_WORD.findall, _NOT_IN_SENTENCES.split(body.casefold()))))
    if words and 2 * poor >= len(words):
        return True
    if 2 * sum(map(str.isalpha, body)) < len(body):
        return False  # Tables of numbers repeat themselves.
    if _share_seen_before(tokens) >= 0.7:
        return True
    # What repeats with small changes, in scripts without spaces, too.
    encoded = body.encode("utf-8", "replace")
    size = len(encoded)
    plain = prose and 20 * len(_STRUCTURE.findall(body)) < size
    most = next(share for least, share in _SQUEEZED if size >= least) if plain else 0.1 * (size >= 400)
    return len(zlib.compress(encoded, 9)) - 8 < most * size


def _loops_at_end(tokens: Sequence[str], *, shortest: int, shortest_number: int) -> bool:
    """Whether one period, four times or more, makes up the latter half or more."""
    backwards = tokens[::-1]
    n = len(backwards)
    for period, same in enumerate(_prefix_matches(backwards)):
        length = period + same
        if period and length >= max(4 * period, n / 2, shortest):
            unit = backwards[:period]
            return length >= shortest_number or any(map(_has_letter_or_sign, unit))
    return False


def _has_letter_or_sign(token: str) -> bool:
    return not token.isdecimal()


def _prefix_matches(items: Sequence[Hashable]) -> list[int]:
    """The Z function: for each place, how many items from there on equal those from the start. Linear."""
    n = len(items)
    z = [0] * n
    left = right = 0
    for i in range(1, n):
        k = min(right - i, z[i - left]) if i < right else 0
        while i + k < n and items[k] == items[i + k]:
            k += 1
        z[i] = k
        if i + k > right:
            left, right = i, i + k
    return z


def _share_seen_before(words: Sequence[str], size: int = 6) -> float:
    """Share of runs of six words that stood in the text before."""
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if len(words) >= 30 else 0.0


def _in_poor_windows(words: Sequence[str]) -> int:
    """How many words lie inside some window of 24 words with at most 7 different ones."""
    size = min(_WINDOW, len(words))
    if size < 8:
        return 0
    counts: Counter[str] = Counter()
    covered = end = 0
    for i, word in enumerate(words):
        counts[word] += 1
        if i >= size:
            old = words[i - size]
            counts[old] -= 1
            if not counts[old]:
                del counts[old]
        if i >= size - 1 and len(counts) <= 0.3 * size:
            covered += i + 1 - max(end, i + 1 - size)
            end = i + 1
    return covered


def _is_soup(text: str, prose: bool) -> bool:
    visible = sum(not ch.isspace() for ch in text)
    alphanumeric = sum(map(str.isalnum, text))
    if not alphanumeric:
        return visible > 0
    undecodable = sum(ch == "\ufffd" or ("\ud800" <= ch <= "\uf8ff") or (ch < " " and not ch.isspace()) for ch in text)
    if undecodable >= 4 and undecodable >= 0.1 * visible:
        return True
    misread, pieces = len(_MISREAD.findall(text)), len(_PIECE.findall(text))
    if (misread >= 3 and misread >= 0.1 * visible) or (pieces >= 4 and pieces >= 0.1 * visible):
        return True
    if not prose:
        return False
    chunks = text.split()
    odd = sum(bool(_SIGNS.fullmatch(chunk) or _PIECE.search(f" {chunk}")) for chunk in chunks)
    return (visible >= 40 and alphanumeric < 0.15 * visible) or (len(chunks) >= 8 and odd >= 0.25 * len(chunks))
