"""The small words that sentences are held together by, in languages of the Latin script."""

from __future__ import annotations

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
