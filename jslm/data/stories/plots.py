"""The sentences: what each beat of a story can sound like, and the beats of the six plots."""

from __future__ import annotations

from jslm.data.stories.grammar import Choice
from jslm.data.stories.words import make_language

OPENING_BEATS: dict[str, list[str]] = {
    "opening": [
        "Once upon a time, a {trait} {kind} [named|called] {hero} lived in a <size> <adj> <home> {place}.",
        "Once, {place}, there was a {trait} {kind} [named|called] {hero}, who kept a <item> [for company|as a pet].",
        "{hero} was a {trait} {kind} who lived {place} with a <item> and a <item>.",
        "{hero} the {kind} lived {place} and was so {trait} that even a <item> had [noticed|told a <item>].",
        "In a <size> <adj> <home> {place}, <by> a <item>, lived a {trait} {kind} [named|called] {hero}.",
        "Nobody {place} was as {trait} as {hero} the {kind}, except [perhaps|maybe|on Sundays] a <item>.",
        "Everyone {place} knew {hero}, the {trait} {kind} with the <size> <adj> <home>.",
        '"[Good day|Hello], <item>! And you, <item>!" That was {hero}, a {trait} {kind} who lived {place}.',
        "If you ever pass {place.the}, knock at the <size> <adj> <home> of {hero}, a {trait} {kind}.",
        "Long ago, a {trait} {kind} [named|called] {hero} moved to {place.the} with a <item> and a <item>.",
    ],
    "habit": [
        "{He} [ate|had|liked] <food> for breakfast, <food> for [lunch|tea] and <food> for supper.",
        "{He} owned a <item>, a <item> and [half|most] of a <noun>.",
        "[Every day|Each night|On Sundays] {he} <move> <along> to [feed|meet] a <item>.",
        "{His} [best|only|oldest] friend was a <item>, who [liked <food>|never said much].",
        "{He} slept <by> a <item> and dreamed of <food>.",
        "{He} could <skill> and <skill>, but {he} could not <skill>.",
        "{He} liked <food>, but not <food>, and never [with|near] a <item>.",
        "On the wall hung a picture of a <item> eating <food>.",
        "{He} was learning to <skill>, and [only a|even a] <item> [laughed|clapped|helped].",
        "{His} house smelled of <food> and, [a little|at night], of <item>.",
    ],
    "colour": [
        "{weather.mid}*4",
        "The air smelled of <food> and <item>.",
        "[Far off|Nearby] a <beast> [was eating|dreamed of] <food>.",
        "A <beast> <move> <along> with a <item>.",
        "A <beast> [watched|hid|slept] <by> a <item>.",
        "[Far off|Nearby] a <beast> [sneezed|cried] into a <item>.",
    ],
    "treasure": [
        "More than <food>, and even more than <food>, {he} loved {his} {adj} {thing}.",
        "{He} had {adj.a} {thing}, a gift from a <beast>, and {he} loved to {thing.use}.",
        "{He} had swapped a <item> for {adj.a} {thing}, just to {thing.use}.",
        "A <adj> [aunt|uncle] had sent {him} {adj.a} {thing} and some <food>. Now {he} could {thing.use}!",
        "{His} [treasure|joy] was {adj.a} {thing}. {He} [kept|hid] it <by> a <item>.",
        "{He} kept {adj.a} {thing} <by> a <item>, and {he} [loved|longed|liked] to {thing.use}.",
    ],
    "meet": [
        "Along came {helper} the {kind2} with a <item> and some <food>.",
        "<Then> {helper} the {kind2} <move> <along>.",
        "{helper}, a <adj> {kind2} eating <food>, <move> over to [see|look|help].",
        "A <item> [moved|fell], and out <move> {helper} the {kind2}.",
        "So {hero} <move> <along> to [find|fetch|ask] {helper} the {kind2}, who was busy with a <item>.",
        "<Then> {helper} the {kind2} <move> up, [with|under] a <item>.",
    ],
}
STUCK_BEATS: dict[str, list[str]] = {
    "stuck": [
        "<one>, {he} <tripped> a <item>, and the {adj} {thing} [landed|ended up|got stuck] {spot}.",
        "<one>, a <beast> sneezed, and the {adj} {thing} [landed|ended up|got stuck] {spot}.",
        "<one>, {hero} <move> <along>, <tripped> a <item>, and the {adj} {thing} [landed|ended up|got stuck] {spot}.",
        "<one>, a <beast> [took|stole] the {adj} {thing} and [dropped|lost] it {spot}.",
        "<one>, {hero} tried to <skill> <by> a <item>, and the {adj} {thing} [landed|ended up|got stuck] {spot}.",
    ],
    "try": [
        '"<Oh>!" {he} <said> <how>. With a <item> {he} tried to {spot.try}.',
        '"<Oh> and <food>!" <said> {hero}, and <how> tried to {spot.try}.',
        "{He} tried to {spot.try}. A <beast> [felt sorry|looked away|<glad>].",
        "{He} asked a <item> for help. Then {he} <how> tried to {spot.try}.",
        "{hero} <ate> some <food> and <how> tried to {spot.try}.",
    ],
    "rescue": [
        '"We need <food> and a <item>," {helper} <said> <how>. {spot.fix}.',
        '"[Hold|Mind|Take] my <item>," <said> {helper}. {spot.fix}.',
        "{helper} <ate> some <food> and had a plan. {spot.fix}.",
        '"My {adj} {thing} is stuck," <said> {hero}. {helper} <glad> <how>. {spot.fix}.',
        "They made a [plan|map] with a <item> and <food>. {spot.fix}.",
    ],
    "stuck moral": [
        "Two friends can reach what one cannot.",
        "A friend is the best ladder of all.",
        "Asking for help is a clever trick too.",
        'And what had {hero} learned? "Hold on tighter, and [know|ask|keep] a friend."',
        "After that, when anything was stuck, {hero} called {helper} first and a <item> second.",
        "{helper} was paid in <food>, which was only fair.",
    ],
}
LOST_BEATS: dict[str, list[str]] = {
    "lost": [
        "<one>, {his} {adj} {thing} was gone. Only a <item> [stood|sat|slept|lay] in its place.",
        '<one>, {hero} <said> <how>, "<Oh>! Where is my {adj} {thing}?"',
        "<one>, {he} wanted {his} {adj} {thing}, to {thing.use}, but it was [gone|lost|not there].",
        "<one>, {he} reached for {his} {adj} {thing} and [found|felt|got] a <item> instead.",
        '<one>, {hero} woke <by> a <item>. "[Help|<Oh>]! My {adj} {thing} is gone!"',
    ],
    "search": [
        "{He} looked <where> and <found> a <item>. {He} looked <where> and <found> a <beast>.",
        "{He} found a <item> <where> and some <food> <where>, but no {thing}.",
        "{He} looked <where>. A <beast> [looked|stared] back. {He} said sorry.",
        "{He} asked a <item>, which said nothing, and a <beast>, which said [less|more|moo].",
        "{He} made a sign: LOST, one {thing}. The prize was <food> and a <item>.",
    ],
    "remember": [
        '"What did you do last night?" asked {helper}. "I <ate> <food>, and then I {hide}," <said> {hero}.',
        '"Think back," {helper} <said> <how>. "I met a <item>," <said> {hero}, "and I {hide}. <Oh>!"',
        '"Did you lend it to a <item>?" asked {helper}. "No," {hero} <said> <how>. "I only {hide}."',
        '{helper} [looked|poked] at a <item>, as detectives do. "I {hide}," {hero} <said> <how>.',
        '"When did you last see it?" asked {helper}. "After the <food>," <said> {hero}, "when I {hide}."',
    ],
    "found": [
        "They <move> <along>, and there was the {adj} {thing}, {hide.at}.",
        "And there it was, {hide.at}. {helper} <glad> so hard that a <item> fell over.",
        "{helper} <move> ahead with a <item>. <Then> they saw the {adj} {thing}, {hide.at}.",
        '"<Oh>!" {hero} <said> <how>. They <move> on, and there was the {adj} {thing}, {hide.at}.',
    ],
    "lost moral": [
        "The thief, it turned out, had been {hero} all along.",
        "What we lose is often where we left it.",
        "Think first and shout later.",
        'From then on {hero} wrote it all down. The first line said: "I like <food>. I like {helper}."',
        "{hero} said sorry to a <beast>, who had been blamed for it.",
        "Then {hero} lost {his} left shoe, but that is another story.",
    ],
}
GIFT_BEATS: dict[str, list[str]] = {
    "birthday": [
        "<one>, it was the birthday of {helper} the {kind2}, who had [hoped|asked] for a <item>.",
        "<one>, {helper} the {kind2} [asked|invited] {him} to a birthday tea with <food>, <food> and <food>.",
        "<one>, a <beast> <move> by with <food> for the birthday of {helper} the {kind2}.",
        '<one>, a <beast> brought a letter. "Come to my birthday tea! Love, {helper} the {kind2}."',
    ],
    "wrap": [
        "{hero} [chose|found] {adj.a} {thing} <by> a <item>. Now {helper} could {thing.use}!",
        "{hero} spent all {his} money and a <item> on {adj.a} {thing}.",
        "{hero} [packed|hid] {adj.a} {thing} in paper that smelled of <food>.",
        "{hero} [chose|found] {adj.a} {thing} and tied it up with a <item>.",
        "After a [long|short] talk with a <item>, {hero} chose {adj.a} {thing}.",
    ],
    "mishap": [
        "{He} <move> <along>, <tripped> a <item>, and the {thing} {mishap}.",
        '{He} <move> <along>. "<Oh>!" The {thing} {mishap}.',
        "On the way a <beast> said [boo|moo], and the {thing} {mishap}.",
        "{He} stopped to <skill> for a <beast>, and the {thing} {mishap}.",
    ],
    "confess": [
        '"It was {adj.a} {thing}," {hero} <said> <how>, "and now it is {mishap.look}."',
        '{hero} hid <by> a <item>. "I am sorry. Your {adj} {thing} is {mishap.look}."',
        '{hero} wished {he} were a <item>. "The {adj} {thing} is {mishap.look}," {he} <said> <how>.',
        "{He} nearly [ran|sailed] away with a <item>, but told the truth. The {adj} {thing} was {mishap.look}.",
    ],
    "delight": [
        '{helper} <glad> <how>. "{mishap.answer}! And it is better than <food>."',
        '"{mishap.answer}!" {helper} <said> <how>, and gave {hero} [a bag|a heap] of <food>.',
        '{helper} looked at it as if it were <food>. "{mishap.answer}," {helper} <said> <how>.',
        'Nobody [moved|sang], not even a <beast>. Then {helper} <glad> <how>. "{mishap.answer}!"',
    ],
    "gift moral": [
        "A gift does not have to be perfect, and neither does a friend.",
        "It is the giving that counts.",
        "Telling the truth had been the hardest part, and the best.",
        "The next year {helper} asked for one just like it.",
        "Nobody remembers the other presents, except for a <item>.",
        '"Next year," <said> {hero}, "I will bring <food>." And {he} did, but that is another story.',
    ],
}
SHARE_BEATS: dict[str, list[str]] = {
    "both": [
        "<one>, {he} <saw> {adj.a} {thing} <by> a <item>. {helper} the {kind2} <saw> it too.",
        "<one>, {adj.a} {thing} [lay|stood] <by> a <item>. {hero} took one end. {helper} the {kind2} took the other.",
        "<one>, {hero} and {helper} the {kind2} [reached|jumped|ran] for {adj.a} {thing} <by> a <item>.",
    ],
    "quarrel": [
        '"Mine!" <said> {hero}. "I want to {thing.use}!" "Mine!" {helper} <said> <how>.',
        '"I saw the {adj} {thing} first," <said> {hero}. "I [smelled|heard] it first," {helper} <said> <how>.',
        "{hero} called {helper} a <item>. {helper} called {hero} a <item>.",
        '"Give it to me," <said> {helper}, "you <item>!" "Never," <said> {hero}, "you <item>!"',
        "{hero} pulled, {helper} pulled, and the {adj} {thing} [cried|squeaked] like a <item>.",
    ],
    "crash": [
        "Then the {thing} [jumped|got away], flew <along> and hit a <beast>.",
        "They both <tripped> a <item>. The {thing} [rolled|flew|slid] <along>.",
        "They pulled until [supper|bedtime], and the <fruit> <form> [went cold|was gone].",
        '"[Stop|Enough]!" <said> a <beast>. "You woke my <item>." They both went red.',
        "{hero} let go. So did {helper}. The {adj} {thing} [sat|lay|stood] alone <by> a <item>.",
    ],
    "deal": [
        '"{deal}," {hero} <said> <how>. So {deal.end}.',
        '"{deal}," {helper} <said> <how>, eating <food>. So {deal.end}.',
        'Then {helper} offered {hero} a <item>. "{deal}," {hero} <said> <how>. So {deal.end}.',
        '"<Oh>!" <said> {hero}. "{deal}!" {helper} <glad> <how>, and {deal.end}.',
    ],
    "share moral": [
        "A thing shared is twice as much fun.",
        "Half the {thing} and a whole friend is a good bargain.",
        "It is hard to quarrel with a mouth full of <food>.",
        "They never did agree on who saw it first.",
        "A <beast> said it had known all along.",
        'Then {helper} <found> a <item>. "Yours," <said> {helper}. "No, yours," <said> {hero}.',
    ],
}
NOISE_BEATS: dict[str, list[str]] = {
    "noise": [
        '<one>, there came a noise from behind a <item>: "{noise}!"',
        '<one>, {he} sat down to <food>, when something [went|said|cried], "{noise}!"',
        '<one>, {hero} woke <by> a <item>. "{noise}!" [said|went] something. A <beast> <move> away.',
        '<one>, something <by> a <item> [went|said|cried], "{noise}!" The <food> shook on its plate.',
    ],
    "guess": [
        '"A <item> with [a hat|teeth]!" {he} <said>, and took {his} {adj} {thing} along.',
        "Was it a ghost, or a <beast>? {hero} took the {adj} {thing} and a <item>.",
        '"I am not afraid," {hero} <said> to a <item>. {He} held {his} {adj} {thing} [tight|high].',
        "{hero} put on a <item> and took {his} {adj} {thing}, in case monsters liked to {thing.use}.",
    ],
    "creep": [
        "{He} <move> <along>, with knees [as soft as|like] <food>.",
        "{He} <move> <along> and <move> <along>, as [quiet|brave|slow] as a <item>.",
        "A <item> fell down. {He} jumped as high as a <beast>.",
        "{He} <move> <along>. {weather.mid}",
    ],
    "reveal": [
        "But it was only {helper} the {kind2}, who {noise.why}.",
        "Behind a <item> [sat|stood|lay] {helper} the {kind2}, who {noise.why}.",
        '"Who is there?" <said> {helper}, a <adj> {kind2}, who {noise.why}.',
        'The monster <said>, "Good day." It was {helper} the {kind2}, who {noise.why}.',
    ],
    "cure": [
        '"<Oh>!" <said> {hero}, and <how> helped {helper} to {noise.cure}. Soon {noise.end}.',
        "{hero} <glad> and helped {helper} to {noise.cure}, and [soon|bit by bit|at last] {noise.end}.",
        '"Is that all?" {hero} <said> <how>. With a <item> {he} helped {helper} to {noise.cure}, until {noise.end}.',
        "{hero} shared <food> and <how> helped {helper} to {noise.cure}. At last {noise.end}.",
    ],
    "noise moral": [
        "Most monsters only need a friend.",
        "A noise is smaller when you know its name.",
        "Being brave means going to look with wobbly knees.",
        '"I thought you were a monster," <said> {hero}. "So did I," <said> {helper}.',
        "And the monster? There never was one, only {helper} and a <item>.",
        "Then something in the cupboard went bump, but that was only a <item>.",
    ],
}
EARN_BEATS: dict[str, list[str]] = {
    "shop": [
        "<one>, {he} <saw> {adj.a} {thing} in the shop of {helper} the {kind2}, <by> a <item>.",
        "<one>, {helper} the {kind2} put {adj.a} {thing} in the shop window, <by> a <item> and some <food>.",
        "<one>, {hero} <move> <along> to the shop of {helper} the {kind2}. There [sat|stood|was] {adj.a} {thing}!",
        "<one>, {helper} the {kind2} came by with a cart of <food> and {adj.a} {thing} to sell.",
    ],
    "price": [
        '"I have only a <item>," <said> {hero}. "Then {job} for me," {helper} <said> <how>.',
        '"What does it cost?" asked {hero}. "A <item>, a <item>," <said> {helper}, "or you can {job}."',
        '"I want to {thing.use}," {hero} <said> <how>. "Then {job} first," {helper} <said> <how>.',
        '"Would you take <food>, or a <item>?" asked {hero}. "No, but you may {job}," {helper} <said> <how>.',
    ],
    "slip": [
        'But {hero} was thinking of a <item> and {job.slip}. "<Oh>!" <said> {helper}.',
        "{hero} worked like a <beast>, but {he} {job.slip}.",
        "First {he} {job.slip}. A <beast> <glad> <how>.",
        "{He} began <how>, but then {he} <found> a <item> and {job.slip}.",
        "{hero} tried to <skill> for a <beast>, and {job.slip}.",
    ],
    "again": [
        '"Try again," {helper} <said> <how>. So {hero} <ate> <food> and did it well.',
        "{helper} lent {him} a <item>. {hero} started again <how>, and got it right.",
        '"So did I once," <said> {helper}, "with a <item>." {hero} tried again, and it worked.',
        "{hero} put on a <item> for luck and <how> did it all again.",
    ],
    "paid": [
        'At last {helper} held out the {adj} {thing}. "[Well done|It is yours]," {helper} <said> <how>.',
        "So the {adj} {thing} was {his}, with [a bag|a pot|a box] of <food> and a <item> for the way.",
        "{helper} packed the {adj} {thing} in a <item>, and {hero} <move> <along> with it.",
        '{helper} <glad>. "Take the {adj} {thing}, some <food> and a <item> too."',
    ],
    "earn moral": [
        "What you work for, you take good care of.",
        "Nobody gets it right the first time, not even a <item>.",
        "The second try is often the best one.",
        "The shop was never quite the same again, and nobody minded.",
        '"Come back tomorrow," <said> {helper}. "I have some more jobs and <food>."',
        "The neighbours still talk about that {time}, mostly with a giggle.",
    ],
}
CLOSING_BEATS: dict[str, list[str]] = {
    "joy": [
        "When {weather.end}, they took turns to {thing.use} <by> a <item>.",
        "They took turns to {thing.use}, and a <beast> [clapped|sang|cheered] <by> a <item>.",
        "That night the {adj} {thing} slept <by> a <item>, and {weather.end}.",
        '"May I {thing.use}?" {helper} <said> <how>. And {hero} <said> yes <how>.',
        "{hero} and {helper} <move> <along> to {thing.use}, and {weather.end}.",
        "The {trait} {kind} and the {kind2} [danced|sang|marched] around the {adj} {thing} {place}.",
    ],
    "evening": [
        "Then {weather.end}, and {hero} and {helper} <ate> <food> and <food>.",
        "By bedtime {weather.end}. {hero} had <food>, and {helper} had <food>.",
        "When {weather.end}, they sat <by> a <item> {place} with <food>.",
        "So ended that {weather} {time}, with <food>, <food> and a <item>.",
        "Everyone {place} came with <food> or a <item>, and {weather.end}.",
        "At last {weather.end}, and only a <beast> was [awake|up|dancing] {place}.",
        "That night {hero} dreamed of <food>, {helper} dreamed of a <item>, and {weather.end}.",
    ],
}
BEATS = OPENING_BEATS | STUCK_BEATS | LOST_BEATS | GIFT_BEATS | SHARE_BEATS | NOISE_BEATS | EARN_BEATS | CLOSING_BEATS

# Each plot's paragraphs, as beats. The last beat is the ending.
PLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "stuck": (("opening", "treasure"), ("stuck", "try"), ("meet", "rescue"), ("evening", "stuck moral")),
    "lost": (("opening",), ("lost", "search"), ("meet", "remember", "found"), ("evening", "lost moral")),
    "gift": (("opening",), ("birthday", "colour", "wrap", "mishap"), ("confess", "delight"), ("evening", "gift moral")),
    "share": (("opening", "habit"), ("both", "quarrel", "crash"), ("deal",), ("joy", "share moral")),
    "noise": (("opening",), ("noise", "guess", "creep"), ("reveal", "cure"), ("evening", "noise moral")),
    "earn": (("opening",), ("shop", "price", "slip"), ("again", "paid"), ("evening", "earn moral")),
}

LANGUAGE = make_language()
NODES: dict[str, Choice] = {name: LANGUAGE.choice(sentences) for name, sentences in BEATS.items()}
