"""English verbs whose forms no rule tells: base, past, participle. Others are regular, to the check of rewrites."""

from __future__ import annotations

from typing import Final

_FORMS: Final = """
arise arose arisen|awake awoke awoken|bear bore born/borne|beat beat beaten|become became become
befall befell befallen|begin began begun|behold beheld beheld|bend bent bent|beset beset beset|bet bet bet
bid bid/bade bid/bidden|bind bound bound|bite bit bitten|bleed bled bled|blow blew blown|break broke broken
breed bred bred|bring brought brought|broadcast broadcast broadcast|build built built|burn burnt burnt
burst burst burst|buy bought bought|cast cast cast|catch caught caught|choose chose chosen|cling clung clung
come came come|cost cost cost|creep crept crept|cut cut cut|deal dealt dealt|dig dug dug|do did done
draw drew drawn|dream dreamt dreamt|drink drank drunk|drive drove driven|dwell dwelt dwelt|eat ate eaten
fall fell fallen|feed fed fed|feel felt felt|fight fought fought|find found found|flee fled fled
fling flung flung|fly flew flown|forbid forbade forbidden|forecast forecast forecast|foresee foresaw foreseen
forget forgot forgotten|forgive forgave forgiven|forsake forsook forsaken|freeze froze frozen|get got got/gotten
give gave given|go went gone|grind ground ground|grow grew grown|hang hung hung|have had had|hear heard heard
hide hid hidden|hit hit hit|hold held held|hurt hurt hurt|keep kept kept|kneel knelt knelt|knit knit knit
know knew known|lay laid laid|lead led led|lean leant leant|leap leapt leapt|learn learnt learnt|leave left left
lend lent lent|let let let|lie lay lain|light lit lit|lose lost lost|make made made|mean meant meant
meet met met|mislead misled misled|mistake mistook mistaken|mow mowed mown|offset offset offset
outdo outdid outdone|outgrow outgrew outgrown|overcome overcame overcome|override overrode overridden
overrun overran overrun|oversee oversaw overseen|overtake overtook overtaken|overthrow overthrew overthrown
pay paid paid|prove proved proven|put put put|quit quit quit|read read read|rebuild rebuilt rebuilt
redo redid redone|rend rent rent|repay repaid repaid|rid rid rid|ride rode ridden|ring rang rung|rise rose risen
run ran run|saw sawed sawn|say said said|see saw seen|seek sought sought|sell sold sold|send sent sent
set set set|sew sewed sewn|shake shook shaken|shear sheared shorn|shed shed shed|shine shone shone
shoot shot shot|show showed shown|shrink shrank shrunk|shut shut shut|sing sang sung|sink sank sunk|sit sat sat
slay slew slain|sleep slept slept|slide slid slid|sling slung slung|slit slit slit|smell smelt smelt
sow sowed sown|speak spoke spoken|speed sped sped|spell spelt spelt|spend spent spent|spill spilt spilt
spin spun spun|spit spat spat|split split split|spoil spoilt spoilt|spread spread spread|spring sprang sprung
stand stood stood|steal stole stolen|stick stuck stuck|sting stung stung|stink stank stunk|strew strewed strewn
stride strode stridden|strike struck struck/stricken|string strung strung|strive strove striven
swear swore sworn|sweep swept swept|swell swelled swollen|swim swam swum|swing swung swung|take took taken
teach taught taught|tear tore torn|tell told told|think thought thought|throw threw thrown|thrust thrust thrust
tread trod trodden|undergo underwent undergone|understand understood understood|undertake undertook undertaken
undo undid undone|uphold upheld upheld|upset upset upset|wake woke woken|wear wore worn|weave wove woven
wed wed wed|weep wept wept|wet wet wet|win won won|wind wound wound|withdraw withdrew withdrawn
withhold withheld withheld|withstand withstood withstood|wring wrung wrung|write wrote written
"""
# Prefixes of verbs that keep the forms of the one behind: rewrite, outgrow, misread, undersell.
PREFIXES: Final = ("re", "out", "over", "mis", "under", "un", "fore", "inter", "pre")
BASES: Final[dict[str, set[str]]] = {}
PARTICIPLES: Final[set[str]] = set()

for _line in _FORMS.replace("\n", "|").split("|"):
    if _line:
        _base, _past, _participle = _line.split(" ")
        for _form in {_base, *_past.split("/"), *_participle.split("/")}:
            BASES.setdefault(_form, set()).add(_base)
        PARTICIPLES.update(_participle.split("/"))
