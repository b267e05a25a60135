"""The words of the rewriting pairs, a domain at a time.

`*` after a word holds it out of training, in every domain; `+` after a verb doubles its last consonant (hum, hummed).
The held-out irregular verbs are compounds (rewrite, overtake) of irregular verbs that training has: the forms of any
other could only be known by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")
# Numbers from 0 on, under 1.
Draw = Callable[[], float]


def listed(text: str) -> tuple[str, ...]:
    """The words of a blank-separated list."""
    return tuple(text.split())


def pick(draw: Draw, items: Sequence[T]) -> T:
    """One of the items, each as likely as another."""
    return items[int(draw() * len(items))]


class Domain(NamedTuple):
    """Word lists, separated by blanks: who acts, what is acted on, verbs for things, verbs for people."""

    people: str
    things: str
    verbs: str
    person_verbs: str


DOMAINS: Final = {
    "office": Domain(
        "manager clerk secretary director accountant assistant boss lawyer intern consultant auditor* receptionist*",
        "letter report invoice contract memo folder budget proposal form agenda file printer* spreadsheet*",
        "sign print copy send write read approve reject draft review stamp keep lose find update cancel submit+ "
        "revise mail shred+* rewrite* withdraw* withhold*",
        "hire dismiss promote pay call question fire interview* mislead*",
    ),
    "home": Domain(
        "mother father child neighbor grandmother uncle aunt guest cousin son daughter man woman babysitter* twin*",
        "cup plate window door carpet lamp chair table knife shelf box key curtain* oven*",
        "wash clean paint open close lock break fix move sweep cut shut buy build hide drop+ polish repair hang "
        "rebuild* scrub+* dust*",
        "feed wake scold invite hug+ tickle* forgive*",
    ),
    "science": Domain(
        "scientist researcher chemist physicist student professor engineer inventor expert technician* biologist*",
        "sample experiment theory hypothesis formula crystal rocket telescope signal planet machine microscope* robot*",
        "test measure study observe describe discover prove repeat record examine heat freeze weigh choose draw "
        "take do design find analyze* calibrate* redo*",
        "teach assist consult quote advise* undermine*",
    ),
    "sport": Domain(
        "coach player runner goalkeeper swimmer captain fan boxer rival skater umpire referee* champion*",
        "ball race trophy goal medal game net bat flag prize bicycle racket* helmet*",
        "win lose throw catch kick hit lift carry hold swing set bring watch roll hurl* inflate* outgrow*",
        "beat tackle challenge train chase defeat pass overtake* outpace*",
    ),
    "school": Domain(
        "teacher student pupil principal classmate boy girl janitor guard parent scholar librarian* tutor*",
        "book essay lesson desk poem exam story question map dictionary page notebook* chalkboard*",
        "read write learn forget explain copy correct grade understand tear give study mark spell erase* memorize* "
        "rewrite*",
        "teach reward greet correct encourage punish* befriend*",
    ),
    "nature": Domain(
        "dog cat horse farmer bird fox wolf bear mouse goose rabbit owl goat unicorn donkey ant eagle* squirrel*",
        "nest flower tree apple nut fence leaf seed bone branch egg bush* pumpkin*",
        "eat bite dig plant grow carry pick steal shake find drag+ bury* gnaw* uproot*",
        "chase frighten scare feed lick sting bite outwit+* overhear*",
    ),
    "travel": Domain(
        "pilot driver passenger tourist guide sailor traveler officer stranger cyclist explorer conductor* hiker*",
        "ticket car bus boat plane train bag bridge hotel passport truck umbrella suitcase* lantern*",
        "drive fly ride rent park repair sell lose stop+ start load photograph reserve leave steer* tow* overload*",
        "meet lead stop+ search drive rescue* misdirect*",
    ),
    "art": Domain(
        "artist singer dancer actor painter writer musician poet critic photographer actress sculptor* composer*",
        "song picture statue film novel painting portrait drum violin show image tapestry costume* melody*",
        "paint sing draw write play record perform sell show hang tune create weave make ruin hum+* carve* remake*",
        "inspire interrupt hire praise imitate impress serenade* outplay*",
    ),
    "medicine": Domain(
        "doctor nurse patient dentist specialist veterinarian widow paramedic soldier baby surgeon* pharmacist*",
        "pill wound tooth bone needle mask chart bottle ointment injection bed bandage* syringe*",
        "treat order label study count take spill clean bind deliver apply swallow* prescribe* misplace*",
        "cure examine treat wake bite hurt calm vaccinate*",
    ),
    "cooking": Domain(
        "chef cook waiter host customer apprentice butcher friend waitress nephew innkeeper baker* dishwasher*",
        "cake pie sandwich egg potato bowl onion meal spoon cookie tomato pizza* omelet*",
        "bake fry serve eat burn chop+ taste boil cook order split spread drink stir+* slice* undercook*",
        "serve pay feed thank greet overcharge* nickname*",
    ),
}

PERSON_VERBS: Final = (
    "see hear help follow thank like love know remember meet watch blame warn admire trust amuse annoy confuse "
    "comfort entertain applaud accept surprise find visit support describe seek fight teach recognize "
    "ignore* tease* misunderstand* forgive* overhear*"
)
# "was being known" is no English: these take no progressive and no adverb of manner.
STATIVE: Final = frozenset(listed("see hear like love know remember admire trust forget understand misunderstand"))

PERSON_ADJECTIVES: Final = listed(
    "young old tall famous tired clever honest angry kind lazy quiet brave unusual anxious friendly eager"
)
THING_ADJECTIVES: Final = listed(
    "new old small large expensive heavy beautiful cheap useful ugly strange empty ancient odd light plain"
)
MANNER: Final = listed("carefully quickly quietly finally secretly slowly proudly eagerly easily gladly")
PREPOSITIONS: Final = (
    *listed("near behind beside with above below under around by from upon in on of"),
    "in front of",
    "next to",
)
NAMES: Final = listed("Anna Tom Maria Peter Olivia Sam Emma Carlos Yuki Omar Ingrid Ada")
