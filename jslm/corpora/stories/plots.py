"""The sentences: what each beat of a story can sound like, and the beats of the six plots.

Sentences mention the facts often and a name never follows a quotation mark or begins a paragraph: a small model has to
see a fact carried many times, always spelled as the same token, before it learns to carry facts itself.
"""

from __future__ import annotations

from jslm.corpora.stories.grammar import Choice
from jslm.corpora.stories.words import make_language

OPENING_BEATS: dict[str, list[str]] = {
    "opening": [
        "Once upon a time there was a {trait} {kind} [named|called] {hero}, who lived {place}.",
        "Once, {place}, there lived a {trait} {kind} [named|called] {hero}.",
        "In a <size> house {place} lived a {trait} {kind} [named|called] {hero}.",
        "Not long ago there was a {trait} {kind} [named|called] {hero}, who had a <size> house {place}.",
        "Everyone {place} knew the {trait} {kind} [named|called] {hero}.",
    ],
    "treasure": [
        "Most of all, {hero} loved a {adj} {thing}.",
        "A <beast> had given {hero} a {adj} {thing}.",
        "Every day {hero} played with a {adj} {thing}.",
        "Under the bed {hero} kept a {adj} {thing}.",
        "More than <food>, {hero} loved a {adj} {thing}.",
    ],
    "meet": [
        "<then> {hero} met {helper} the {kind2}.",
        "<then> {helper} the {kind2} came by with a <noun>.",
        "So {hero} went to see {helper} the {kind2}.",
        "<then> {helper} the {kind2} came to see {hero}.",
    ],
    "ask": [
        '"Can you help me, {helper}?" asked {hero}.',
        '"What is wrong, {hero}?" asked {helper}.',
        '"Please help me, {helper}," <said> {hero}.',
        '"Why are you so sad, {hero}?" asked {helper}.',
    ],
}
STUCK_BEATS: dict[str, list[str]] = {
    "stuck": [
        "One {weather} day, the {adj} {thing} got stuck {spot}.",
        "One {weather} day, a <beast> took the {adj} {thing} and dropped it {spot}.",
        "One {weather} day, {hero} fell over a <noun>, and the {adj} {thing} landed {spot}.",
    ],
    "try": [
        "At once {hero} tried to {spot.try}.",
        '"My {adj} {thing}!" <said> {hero}, and tried to {spot.try}.',
        "All day {hero} tried to {spot.try}.",
    ],
    "rescue": [
        "So {helper} {spot.fix}, and {hero} had the {adj} {thing} again.",
        "So {helper} {spot.fix} and gave {hero} the {adj} {thing}.",
        "Then {helper} {spot.fix}. There was the {adj} {thing}!",
    ],
    "stuck moral": [
        "Two friends can reach what one cannot.",
        "A friend is the best ladder of all.",
        "Asking for help is a clever trick too.",
    ],
}
LOST_BEATS: dict[str, list[str]] = {
    "lost": [
        "One {weather} day, the {adj} {thing} was gone.",
        "One {weather} day, {hero} woke up, and the {adj} {thing} was gone.",
        "One {weather} day, {hero} could not find the {adj} {thing}.",
    ],
    "search": [
        "All day {hero} looked for the {thing}, but found only a <noun>.",
        "So {hero} looked under a <noun> and behind a <noun>, but found no {thing}.",
        "Where was it? So {hero} asked a <beast>, who had seen no {thing}.",
    ],
    "remember": [
        '"Think back, {hero}," said {helper}. "Last night I {hide}," <said> {hero}.',
        '"What did you do last night, {hero}?" asked {helper}. "I {hide}," <said> {hero}.',
        '"Let me think, {helper}," said {hero}. "Last night I {hide}!"',
    ],
    "found": [
        "They ran back, and there was the {adj} {thing}, {hide.at}.",
        "So {hero} and {helper} looked, and there was the {adj} {thing}, {hide.at}.",
        "And there {helper} found the {adj} {thing}, {hide.at}.",
    ],
    "lost moral": [
        "What we lose is often where we left it.",
        "Think first and shout later.",
        "The thief had been {hero} all along.",
    ],
}
GIFT_BEATS: dict[str, list[str]] = {
    "birthday": [
        "One {weather} day, it was the birthday of {helper} the {kind2}.",
        "One {weather} day, {helper} the {kind2} asked {hero} to a birthday tea with <food>.",
        "One {weather} day, a letter came. It said, come to the birthday tea of {helper} the {kind2}.",
    ],
    "wrap": [
        "So {hero} chose a {adj} {thing} for {helper}.",
        "As a gift for {helper}, {hero} made a {adj} {thing}.",
        "In the shop {hero} found a {adj} {thing} for {helper}.",
    ],
    "mishap": [
        "But on the way {hero} fell over a <noun>, and the {thing} {mishap}.",
        "But then a <beast> said boo to {hero}, and the {thing} {mishap}.",
        "But {hero} stopped to eat <food>, and the {thing} {mishap}.",
    ],
    "confess": [
        '"Oh, {helper}, I have a {adj} {thing} for you," <said> {hero}, "but it is {mishap.look}."',
        '"I am sorry, {helper}," <said> {hero}. "Your {adj} {thing} is {mishap.look}."',
        '"Look, {helper}," <said> {hero}. "The {adj} {thing} is {mishap.look}."',
    ],
    "delight": [
        '"Thank you, {hero}!" <said> {helper}. "{mishap.answer}!"',
        '"Do not cry, {hero}," <said> {helper}. "{mishap.answer}!"',
        'But {helper} gave {hero} a hug. "{mishap.answer}," <said> {helper}.',
    ],
    "gift moral": [
        "A gift does not have to be perfect, and neither does a friend.",
        "It is the giving that counts.",
        "Telling the truth is the best gift of all.",
    ],
}
SHARE_BEATS: dict[str, list[str]] = {
    "both": [
        "One {weather} day, {hero} and {helper} the {kind2} saw a {adj} {thing} in the grass.",
        "One {weather} day, {hero} found a {adj} {thing}, but {helper} the {kind2} found it too.",
        "One {weather} day, {hero} and {helper} the {kind2} both ran for a {adj} {thing}.",
    ],
    "quarrel": [
        '"Give me the {thing}, {helper}!" cried {hero}. "No, {hero}!" cried {helper}.',
        '"I saw the {adj} {thing} first, {helper}," <said> {hero}. "No, I did," <said> {helper}.',
        "First {hero} called {helper} a <noun>, and then {helper} called {hero} a <noun>.",
    ],
    "crash": [
        "So {hero} pulled and {helper} pulled, until the {adj} {thing} hit a <beast>.",
        "They pulled and pulled, and {hero} and {helper} both fell over a <noun>.",
        "Then a <beast> told {hero} and {helper} to stop. They both went red.",
    ],
    "deal": [
        '"We could {deal}, {helper}," <said> {hero}. So they did, and {deal.end}.',
        '"We could {deal}, {hero}," <said> {helper}. So they did, and {deal.end}.',
        '"I know, {hero}," <said> {helper}, "we {deal}." And {deal.end}.',
    ],
    "share moral": [
        "A thing shared is twice as much fun.",
        "Half a {thing} and a whole friend is a good bargain.",
        "They never did agree on who saw it first.",
    ],
}
NOISE_BEATS: dict[str, list[str]] = {
    "noise": [
        "One {weather} day, {hero} heard a noise behind a <noun>. It went {noise}.",
        "One {weather} day, {hero} sat down to eat <food>, when something went {noise}.",
        "One {weather} day, something in the dark went {noise}, and {hero} woke up.",
    ],
    "guess": [
        "So {hero} took the {adj} {thing} and went to look.",
        "Was it a ghost, or a <beast>? Then {hero} took the {adj} {thing} and went to look.",
        '"I am not afraid," <said> {hero}, and held the {adj} {thing} tight.',
    ],
    "reveal": [
        "But it was only {helper} the {kind2}, who {noise.why}.",
        "Behind the <noun> sat {helper} the {kind2}, who {noise.why}.",
        "And there was {helper} the {kind2}, who {noise.why}.",
    ],
    "cure": [
        "So {hero} helped {helper} to {noise.cure}, and soon {noise.end}.",
        '"Let me help you, {helper}," said {hero}. They began to {noise.cure}, and soon {noise.end}.',
        "With a <noun> {hero} helped {helper} to {noise.cure}, until {noise.end}.",
    ],
    "noise moral": [
        "Most monsters only need a friend.",
        "A noise is smaller when you know its name.",
        "And the monster? There was only {helper}.",
    ],
}
EARN_BEATS: dict[str, list[str]] = {
    "shop": [
        "One {weather} day, {hero} saw a {adj} {thing} in the shop of {helper} the {kind2}.",
        "One {weather} day, {helper} the {kind2} came by with a {adj} {thing} to sell, and {hero} saw it.",
        "One {weather} day, {hero} went to the shop of {helper} the {kind2}. There was a {adj} {thing}!",
    ],
    "price": [
        '"I have only a <noun>, {helper}," <said> {hero}. "Then {job} for me, {hero}," <said> {helper}.',
        '"What does the {thing} cost, {helper}?" asked {hero}. "You can {job} for it," <said> {helper}.',
        '"I want to {thing.use}, {helper}," <said> {hero}. "Then {job} first, {hero}," <said> {helper}.',
    ],
    "slip": [
        "But {hero} saw a <beast> and {job.slip}.",
        "So {hero} began, but {job.slip}.",
        "But {hero} was thinking of <food> and {job.slip}.",
    ],
    "again": [
        '"Try again, {hero}," said {helper}. So {hero} did it all again.',
        "So {helper} gave {hero} a <noun> and said, try again.",
        '"I am sorry, {helper}," <said> {hero}, and did it all again.',
    ],
    "paid": [
        'Then {helper} gave {hero} the {adj} {thing}. "Well done, {hero}!"',
        "At last {hero} had the {adj} {thing}, and some <food> from {helper}.",
        '"Here is your {adj} {thing}, {hero}," <said> {helper}.',
    ],
    "earn moral": [
        "What you work for, you take good care of.",
        "The second try is often the best one.",
        "Nobody gets it right the first time, not even {helper}.",
    ],
}
CLOSING_BEATS: dict[str, list[str]] = {
    "evening": [
        "Then {weather.end} {place}, and {hero} and {helper} took the {adj} {thing} to {thing.use}.",
        "When {weather.end}, {hero} asked {helper} to come and {thing.use}.",
        "At last {weather.end}, and {hero} and {helper} sat {place} with the {adj} {thing} and ate <food>.",
        "That night {weather.end} {place}, and {hero} dreamed of {helper} and the {adj} {thing}.",
    ],
}
BEATS = OPENING_BEATS | STUCK_BEATS | LOST_BEATS | GIFT_BEATS | SHARE_BEATS | NOISE_BEATS | EARN_BEATS | CLOSING_BEATS

# Each plot's paragraphs, as beats. The last beat is the ending.
PLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "stuck": (("opening", "treasure"), ("stuck", "try"), ("meet", "ask", "rescue"), ("evening", "stuck moral")),
    "lost": (("opening", "treasure"), ("lost", "search"), ("meet", "remember", "found"), ("evening", "lost moral")),
    "gift": (("opening",), ("birthday", "wrap", "mishap"), ("confess", "delight"), ("evening", "gift moral")),
    "share": (("opening",), ("both", "quarrel", "crash"), ("deal",), ("evening", "share moral")),
    "noise": (("opening", "treasure"), ("noise", "guess"), ("reveal", "cure"), ("evening", "noise moral")),
    "earn": (("opening",), ("shop", "price", "slip"), ("again", "paid"), ("evening", "earn moral")),
}

LANGUAGE = make_language()
NODES: dict[str, Choice] = {name: LANGUAGE.choice(sentences) for name, sentences in BEATS.items()}
