"""The words of the stories: lists for free choices, and the facts that a story has to keep to."""

from __future__ import annotations

from jslm.data.stories.grammar import Language

GIRLS = ["Poppy", "Mabel", "Ivy", "Nora", "Daisy", "Tilly", "Hazel", "Juno", "Fern", "Maya", "Bea", "Rosa"]
BOYS = ["Otto", "Milo", "Finn", "Gus", "Hugo", "Theo", "Pip", "Leo", "Sam", "Ned", "Tom", "Kofi"]
KINDS = [
    "mouse",
    "hedgehog",
    "rabbit",
    "squirrel",
    "duck",
    "bear",
    "fox",
    "otter",
    "owl",
    "kitten",
    "puppy",
    "frog",
    "badger",
    "mole",
    "goat",
]
TRAITS = [
    "curious",
    "cheerful",
    "sleepy",
    "brave",
    "shy",
    "tidy",
    "hungry",
    "noisy",
    "gentle",
    "clumsy",
    "proud",
    "polite",
]
COLOURS = [
    "red",
    "blue",
    "green",
    "yellow",
    "purple",
    "pink",
    "white",
    "orange",
    "silver",
    "golden",
    "striped",
    "spotted",
    "shiny",
    "tiny",
    "wobbly",
    "dusty",
]
TIMES = [
    "morning",
    "afternoon",
    "evening",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
]

# What one does with each thing, after "to".
THINGS = {
    "kite": "fly it over the roofs",
    "drum": "march behind it",
    "hat": "wear it in the bath",
    "lantern": "read by it at night",
    "umbrella": "sail down the pond in it",
    "boat": "float it in the bath",
    "button": "spin it on a plate",
    "scarf": "wave it like a flag",
    "kettle": "hear it sing",
    "bell": "ring it at the cows",
    "teacup": "drink rain from it",
    "balloon": "let it bob on a string",
    "spoon": "dig for treasure with it",
    "key": "try it in every door",
    "basket": "sit in it and sail away",
    "whistle": "call the ducks with it",
    "ball": "roll it down the hill",
    "ribbon": "tie it around the cat",
    "flute": "play it to the moon",
    "broom": "ride it like a horse",
}

# In -> the phrase of being there; the -> its plain name.
PLACES = {
    "in the meadow": "the meadow",
    "in the orchard": "the orchard",
    "by the harbour": "the harbour",
    "in the pine wood": "the pine wood",
    "near the lighthouse": "the lighthouse",
    "in the market square": "the market square",
    "in the rose garden": "the rose garden",
    "at the old mill": "the old mill",
    "by the river": "the river",
    "on the windy hill": "the windy hill",
    "behind the church": "the church",
    "in the quiet valley": "the quiet valley",
}

# Adjective -> what it does meanwhile, how it is in the end.
WEATHERS = {
    "rainy": ("Rain [dripped from|ran down|fell on] every <item>.", "[the rain stopped|a rainbow came out]"),
    "windy": ("The wind [stole|chased|pushed] a <item> <along>.", "the wind [grew tired|went to bed]"),
    "snowy": ("Snow [sat on|fell on|hid] every <item>.", "the snow [glowed blue|stopped falling]"),
    "foggy": ("In the fog a <item> looked [just like|like] a <beast>.", "the fog [rolled away|went home]"),
    "sunny": ("The sun [shone on|dried|winked at] a <item>.", "the sun [turned pink|went to bed]"),
    "frosty": ("Frost [shone on|sat on|hid] every <item>.", "the frost [turned blue|shone like stars]"),
    "cloudy": ("A cloud [looked like|chased] a <item>.", "the clouds [rolled away|turned to gold]"),
    "stormy": ("Thunder [shouted at|shook|woke] a <item>.", "the storm [said sorry|grew tired]"),
}

# A thing that is stuck: where, a try and its failure, a way that works there.
SPOTS = {
    "in the top of a pear tree": (
        "climb the trunk, but [the tree was too tall|a pear fell on {his} nose]",
        "[They shook the branch with|{helper} threw] a <item>, and down it came",
    ),
    "on the roof of the bakery": (
        "climb the wall, but [the bricks were too smooth|the baker woke up]",
        "[They|{helper}] hooked it off the roof with a <item>",
    ),
    "in the middle of the pond": (
        "reach it with a stick, but [the water was too cold|the ducks only stared]",
        "[They|{helper}] rowed out to it in a <item>, and the ducks cheered",
    ),
    "at the bottom of a well": (
        "reach down, but [the well was too deep|only an echo came up]",
        "[They|{helper}] let down a rope with a <item> on the end, and up it came",
    ),
    "deep inside a prickly bush": (
        "crawl in, but [the thorns said no|a thorn poked {his} nose]",
        "[They|{helper}] held back the thorns with a <item>, and out it popped",
    ),
    "in the middle of a muddy ditch": (
        "hop to it, but [the mud ate one shoe|{he} sank to the knees]",
        "[They|{helper}] built a bridge over the mud with a <item>",
    ),
    "under the old bridge": (
        "crawl into the dark, but [it was too dark|something in there burped]",
        "[They|{helper}] lit a candle, and there it was beside a <beast>",
    ),
    "on top of a hay cart": (
        "run after the cart, but [the cart was too quick|the driver was asleep]",
        "[They|{helper}] gave <food> to the horse, and the cart stopped",
    ),
    "in the nest of an angry goose": (
        "say please, but [the goose hissed|the goose bit {his} sleeve]",
        "[They|{helper}] gave the goose <food>, and the goose gave it back",
    ),
    "inside a sooty chimney": (
        "look up the chimney, but [soot fell on {him}|{he} sneezed nine times]",
        "[They|{helper}] poked a <item> up the chimney, and out it fell",
    ),
}

# A thing that is lost: what its owner did last night -> where it is.
HIDES = {
    "gave it a bath": "in the bathtub, quite clean",
    "put it to bed": "in bed, still asleep",
    "hid it from pirates": "under the floor, where no pirate would look",
    "stirred the soup with it": "in the soup pot, still warm",
    "hung it out to dry": "on the washing line, waving at them",
    "showed it the moon": "at the window, still looking up",
    "let the hens see it": "in the hen house, under a proud hen",
    "sat on it to keep it safe": "on {his} own chair, a little flat",
    "planted it to grow another": "in the flower pot, with no roots yet",
    "posted it to myself": "in the letter box, with a stamp on",
}

# What happens to a present -> how it looks then, and the friend's answer.
MISHAPS = {
    "fell into the pond": ("dripping wet", "Now it can swim"),
    "rolled through the mud": ("all muddy", "Mud suits it"),
    "dropped into a pot of jam": ("sticky with jam", "Now I can never drop it"),
    "was licked by a cow": ("wet from the cow", "Cows only lick the best"),
    "tumbled into the flour": ("white with flour", "It looks like winter"),
    "was sat on by a horse": ("a little flat", "Now it fits under my door"),
    "bounced down the stairs": ("full of bumps", "Bumps are good to hold"),
    "was nibbled by hens": ("a bit nibbled", "Now it has windows"),
    "rolled into a heap of leaves": ("full of leaves", "Now it is part tree"),
    "landed in a bag of feathers": ("covered in feathers", "Perhaps it can fly now"),
}

# How two share one thing -> what comes of it.
DEALS = {
    "You have it by day and I have it by night": "it moved house twice a day",
    "We keep it in the hollow oak": "the oak had two visitors every day",
    "We hold one end each": "they never went anywhere alone",
    "We give it to the baby owls": "the owls lent it to them on Sundays",
    "We race for it": "a snail won, and it kindly lent it to them both",
    "We count to ten and swap": "they learned to count very fast",
    "We start a club for it": "the club had two members and no rules",
    "We toss a coin for it": "the coin got lost, and they forgot to argue",
}

# A noise in the dark -> its cause, the cure, and what comes of it.
NOISES = {
    "Hic, hic, hic": ("had the hiccups", "drink upside down", "the hiccups hopped off"),
    "Boo, hoo, hoo": ("had lost the way home", "find the path", "nobody was lost"),
    "Rumble, rumble": ("had a hungry tummy", "eat <food>", "the tummy was quiet"),
    "Tap, tap, tap": ("was mending a <adj> chair", "find the hammer", "the chair had all its legs"),
    "Toot, honk, toot": ("was learning the trumpet", "play softly", "it sounded almost nice"),
    "Atchoo, atchoo": ("had a terrible cold", "sip <food>", "the sneezes stopped"),
    "Crunch, munch": ("was eating toast in a cupboard", "find the butter", "there was toast for two"),
    "Squeak, squeak": ("had new shoes", "put butter on them", "the shoes were quiet"),
    "Thump, bump, thump": ("was learning to dance", "count the steps", "they were both dancing"),
    "Drip, drip, splash": ("was chasing a leak with a bucket", "mend the roof", "the leak stopped"),
}

# A job to earn something -> how it goes wrong.
JOBS = {
    "sweep the floor": "made everyone sneeze",
    "wash the windows": "washed them with soup",
    "count the peas": "ate every tenth pea",
    "paint the door": "painted it shut",
    "peel the onions": "cried a whole bucket",
    "water the beans": "watered the baker too",
    "feed the hens": "fed one hen nine times",
    "bake the bread": "forgot the flour",
    "carry the eggs": "dropped all but one",
    "wind the wool": "tied {him2} to a chair",
}


def _add_words(language: Language) -> None:
    add = language.add_words
    add("size", "big|small|long|short|fat|thin|tall|wide|round|flat|huge|little|plump|square|heavy|giant")
    add(
        "adj",
        "wet|muddy|crooked|rusty|grumpy|soft|lumpy|broken|smelly|sticky|funny|quiet|lonely|friendly|warm|cold|fluffy|"
        "furry|cosy|nervous|famous|lucky|grey|brown|black|bald|tired|lazy|merry|fancy|"
        "royal|singing",
    )
    add(
        "noun",
        "turnip|snail|sock|bucket|beetle|pebble|pumpkin|feather|boot|pinecone|potato|cabbage|chair|worm|hen|cushion|"
        "saucepan|biscuit|crab|moth|cork|bun|carrot|spider|mitten|stump|barrel|melon|shoe|dumpling|sausage|pickle|"
        "ladder|sofa|parrot|radish|rake",
        fresh=True,
    )
    add("taste", "hot|fresh|burnt|sweet|salty|green|leftover|soft|warm|cold|plain|famous")
    add("fruit", "plum|pea|cherry|apple|onion|lemon|pear|honey|nut|berry|bean|fig|mushroom|banana|ginger|cheese")
    add("form", "cake|soup|pie|jam|tart|pudding|bread|juice|toast|stew|buns|pancakes")
    add("food", "<taste> <fruit> <form>|<fruit> <form>*2")
    add(
        "watcher",
        "crow|ant|cow|pigeon|cat|toad|swan|donkey|sheep|robin|goose|horse",
        fresh=True,
    )
    add("item", "<adj> <noun>|<size> <adj> <noun>")
    add("beast", "<adj> <watcher>|<size> <adj> <watcher>*2")
    add(
        "skill",
        "whistle|swim|count to nine|bake bread|stand on one leg|sing|climb trees|tie knots|juggle|tell the time|"
        "walk backwards|keep a secret",
        fresh=True,
    )
    add("Oh", "Crumbs|Pickles|Buttons|Bother|Beans|Puddles|Whiskers|Noodles|Mittens|Oh dear")
    add("move", "ran|hopped|skipped|marched|tiptoed|hurried|wandered|trotted|danced|crept|rushed|rolled")
    add(
        "along",
        "along the lane|over the stile|through the tall grass|past the bakery|down the steps|across the field|"
        "around the pond|up the path|"
        "behind the church|past a <item>*10",
    )
    add("home", "teapot|boot|cottage|bathtub|barn|tower|cave|tent|cupboard|piano|nest|chimney")
    add("glad", "laughed|smiled|cheered|clapped|giggled|hummed")
    add("said", "said*3|whispered|called|shouted|mumbled|sighed|sang|squeaked|cried|laughed")
    add(
        "how",
        "at once|slowly|shyly|kindly|bravely|politely|happily|proudly|gently|"
        "with a wink|with a bow|with a yawn|with a cough",
    )
    add("by", "beside|behind|under|near|on|next to|in front of|on top of")
    add("ate", "ate|shared|nibbled|cooked|tried|finished")
    add("found", "found|met|saw|noticed|woke|came upon")
    add("saw", "saw*2|found|noticed|came upon")
    add("tripped", "tripped over|fell over|bumped into|bounced off|sat on|hopped onto")
    add("Then", "Just then|At that moment|Before long|Right then|Soon|After a while|By good luck|A minute later")
    add(
        "where",
        "under the bed|in the cupboard|behind the clock|up the chimney|in the coal box|under the stairs|"
        "in the attic|under the rug",
    )


def _add_facts(language: Language) -> None:
    def names() -> list[dict[str, str]]:
        girl = {"he": "she", "He": "She", "him": "her", "his": "her", "His": "Her", "child": "girl"}
        boy = {"he": "he", "He": "He", "him": "him", "his": "his", "His": "His", "child": "boy"}
        return [{"": name, "s": f"{name}'s"} | (girl if name in GIRLS else boy) for name in GIRLS + BOYS]

    def kinds(of: str) -> list[dict[str, str]]:
        return [{"": kind} for kind in KINDS] + [{"": f"{{{of}.child}}"}]

    add = language.add_fact
    add("hero", names())
    add("helper", names(), differs_from="hero")
    add("kind", kinds("hero"))
    add("kind2", kinds("helper"), differs_from="kind")
    add("trait", [{"": trait} for trait in TRAITS])
    add("adj", [{"": word, "a": f"an {word}" if word[0] in "aeiou" else f"a {word}"} for word in COLOURS])
    add("thing", [{"": thing, "use": use} for thing, use in THINGS.items()])
    add("place", [{"": where, "the": name} for where, name in PLACES.items()])
    add("weather", [{"": name, "mid": mid, "end": end} for name, (mid, end) in WEATHERS.items()])
    add("time", [{"": time} for time in TIMES])
    add("spot", [{"": at, "try": attempt, "fix": fix} for at, (attempt, fix) in SPOTS.items()])
    add("hide", [{"": did, "at": at} for did, at in HIDES.items()])
    add("mishap", [{"": what, "look": look, "answer": answer} for what, (look, answer) in MISHAPS.items()])
    add("deal", [{"": deal, "end": end} for deal, end in DEALS.items()])
    add("noise", [{"": noise, "why": why, "cure": cure, "end": end} for noise, (why, cure, end) in NOISES.items()])
    add("job", [{"": job, "slip": slip} for job, slip in JOBS.items()])


def make_language() -> Language:
    """The lists and facts, ready to compile the sentences of `plots`."""
    shorthands = {pronoun: f"hero.{pronoun}" for pronoun in ("he", "He", "him", "his", "His")}
    shorthands |= {f"{pronoun}2": f"helper.{pronoun}" for pronoun in ("he", "He", "him", "his", "His")}
    language = Language(shorthands)
    _add_words(language)
    _add_facts(language)
    # The one list that mentions facts, so it comes after them.
    language.add_words(
        "one",
        "One {weather} {time}*2|On a [very|rather] {weather} {time}|One [quiet|slow] {weather} {time}|"
        "Then, one {weather} {time}",
    )
    return language
