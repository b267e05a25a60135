"""The words of the stories: lists for free choices, and the facts that a story has to keep to."""

from __future__ import annotations

from jslm.corpora.stories.grammar import Language

# Heroes and helpers have names and kinds of their own, so that a name alone tells who it is.
HEROES = ["Poppy", "Mabel", "Nora", "Daisy", "Hazel", "Fern", "Otto", "Milo", "Hugo", "Theo", "Leo", "Pip"]
HELPERS = ["Ivy", "Tilly", "Juno", "Maya", "Rosa", "Bea", "Finn", "Gus", "Sam", "Ned", "Tom", "Kofi"]
HERO_KINDS = ["mouse", "hedgehog", "rabbit", "squirrel", "duck", "bear", "kitten", "puppy"]
HELPER_KINDS = ["fox", "otter", "frog", "badger", "mole", "goat", "owl", "beaver"]
TRAITS = ["curious", "cheerful", "sleepy", "brave", "shy", "tidy", "hungry", "noisy"]
# None begins with a vowel: "a" always goes before them.
COLOURS = ["red", "blue", "green", "yellow", "purple", "pink", "white", "golden"]

# What one does with each thing, after "to".
THINGS = {
    "kite": "fly it over the roofs",
    "drum": "march behind it",
    "hat": "wear it in the bath",
    "lantern": "read by it at night",
    "boat": "float it in the bath",
    "scarf": "wave it like a flag",
    "kettle": "hear it sing",
    "bell": "ring it at the cows",
    "teacup": "drink rain from it",
    "balloon": "let it bob on a string",
    "whistle": "call the ducks with it",
    "flute": "play it to the moon",
}

# In -> the phrase of being there; the -> its plain name.
PLACES = {
    "in the meadow": "the meadow",
    "in the orchard": "the orchard",
    "by the harbour": "the harbour",
    "in the pine wood": "the pine wood",
    "near the lighthouse": "the lighthouse",
    "in the rose garden": "the rose garden",
    "at the old mill": "the old mill",
    "on the windy hill": "the windy hill",
}

# Adjective -> how it is in the end.
WEATHERS = {
    "rainy": "[the rain stopped|a rainbow came out]",
    "windy": "the wind [grew tired|went to bed]",
    "snowy": "the snow [glowed blue|stopped falling]",
    "foggy": "the fog [rolled away|went home]",
    "sunny": "the sun [turned pink|went to bed]",
    "frosty": "the frost [turned blue|shone like stars]",
}

# A thing that is stuck: where, a try and its failure, a way that works there.
SPOTS = {
    "in the top of a pear tree": ("climb up, but the tree was too tall", "shook the branch with a <noun>"),
    "on the roof of the bakery": ("climb up, but the wall was too smooth", "hooked it off the roof with a <noun>"),
    "in the middle of the pond": ("swim to it, but the water was too cold", "rowed out to it in a <noun>"),
    "at the bottom of a well": ("reach down, but the well was too deep", "let down a rope with a <noun> on it"),
    "deep inside a prickly bush": ("crawl in, but the thorns said no", "held back the thorns with a <noun>"),
    "in the middle of a ditch": ("hop to it, but the mud was too deep", "built a bridge out of a <noun>"),
}

# A thing that is lost: what its owner did last night -> where it is.
HIDES = {
    "gave it a bath": "in the bathtub, quite clean",
    "put it to bed": "in bed, still asleep",
    "hid it from pirates": "under the floor, where no pirate would look",
    "stirred the soup with it": "in the soup pot, still warm",
    "hung it out to dry": "on the washing line, waving at them",
    "showed it the moon": "at the window, still looking up",
}

# What happens to a present -> how it looks then, and the friend's answer.
MISHAPS = {
    "fell into the pond": ("dripping wet", "Now it can swim"),
    "rolled through the mud": ("all muddy", "Mud suits it"),
    "dropped into a pot of jam": ("sticky with jam", "Now nobody can drop it"),
    "was licked by a cow": ("wet from the cow", "Cows only lick the best"),
    "tumbled into the flour": ("white with flour", "It looks like winter"),
    "was sat on by a horse": ("a little flat", "Now it fits under the door"),
}

# How two share one thing -> what comes of it.
DEALS = {
    "have it by turns": "it moved house twice a day",
    "keep it in the hollow oak": "the oak had two visitors every day",
    "hold one end each": "they never went anywhere alone",
    "lend it to the baby owls": "the owls lent it to them on Sundays",
    "race for it": "a snail won, and kindly lent it to them both",
    "count to ten and swap": "they learned to count very fast",
}

# A noise in the dark -> its cause, the cure, and what comes of it.
NOISES = {
    "hic, hic, hic": ("had the hiccups", "drink upside down", "the hiccups hopped off"),
    "boo, hoo, hoo": ("had lost the way home", "find the path", "nobody was lost"),
    "rumble, rumble": ("had a hungry tummy", "eat <food>", "the tummy was quiet"),
    "tap, tap, tap": ("was mending a chair", "find the hammer", "the chair had all its legs"),
    "toot, honk, toot": ("was learning the trumpet", "play softly", "it sounded almost nice"),
    "atchoo, atchoo": ("had a terrible cold", "sip <food>", "the sneezes stopped"),
}

# A job to earn something -> how it goes wrong.
JOBS = {
    "sweep the floor": "made everyone sneeze",
    "wash the windows": "washed them with soup",
    "count the peas": "ate every tenth pea",
    "paint the door": "painted it shut",
    "peel the onions": "cried a whole bucket",
    "water the beans": "watered the cat too",
}


def _add_words(language: Language) -> None:
    add = language.add_words
    add("size", "big|small|tall|round|crooked|cosy")
    add(
        "noun",
        "turnip|bucket|sock|pumpkin|feather|boot|cabbage|cushion|biscuit|carrot|barrel|ladder|sofa|spoon|broom|bathtub",
    )
    add("fruit", "plum|cherry|apple|onion|lemon|pear|honey|nut")
    add("form", "cake|soup|pie|jam|tart|pudding|bread|stew")
    add("food", "<fruit> <form>")
    add("beast", "crow|cow|pigeon|cat|toad|swan|donkey|sheep|robin|goose|horse|snail")
    add("oh", "crumbs|pickles|bother|beans|puddles|whiskers|noodles|oh dear")
    add("said", "said|cried|sighed|whispered")
    add("then", "Just then|Before long|Soon|After a while|A minute later")


def _add_facts(language: Language) -> None:
    add = language.add_fact
    add("hero", [{"": name} for name in HEROES])
    add("helper", [{"": name} for name in HELPERS])
    add("kind", [{"": kind} for kind in HERO_KINDS])
    add("kind2", [{"": kind} for kind in HELPER_KINDS])
    add("trait", [{"": trait} for trait in TRAITS])
    add("adj", [{"": word} for word in COLOURS])
    add("thing", [{"": thing, "use": use} for thing, use in THINGS.items()])
    add("place", [{"": where, "the": name} for where, name in PLACES.items()])
    add("weather", [{"": name, "end": end} for name, end in WEATHERS.items()])
    add("spot", [{"": at, "try": attempt, "fix": fix} for at, (attempt, fix) in SPOTS.items()])
    add("hide", [{"": did, "at": at} for did, at in HIDES.items()])
    add("mishap", [{"": what, "look": look, "answer": answer} for what, (look, answer) in MISHAPS.items()])
    add("deal", [{"": deal, "end": end} for deal, end in DEALS.items()])
    add("noise", [{"": noise, "why": why, "cure": cure, "end": end} for noise, (why, cure, end) in NOISES.items()])
    add("job", [{"": job, "slip": slip} for job, slip in JOBS.items()])


def make_language() -> Language:
    """The lists and facts, ready to compile the sentences of `plots`."""
    language = Language()
    _add_words(language)
    _add_facts(language)
    return language
