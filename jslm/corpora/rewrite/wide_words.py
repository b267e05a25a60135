"""Words for pairs beyond the ten domains: everyday English, none of it held out.

`+` after a verb doubles its last consonant, as in `words`.
"""

from __future__ import annotations

from typing import Final

from jslm.corpora.rewrite.words import listed

VERBS: Final = listed(
    # -e is dropped before -ed: what is left of a participle alone does not say so, only many of its like do.
    "abandon absorb accuse achieve activate adjust adopt adore advertise allocate announce applaud approach argue "
    "arrange assemble assign assume attack attract avoid award balance ban+ bathe beg+ block blend boost borrow "
    "bother bottle bounce box brake brew bribe broaden browse brush bundle bypass calculate capture celebrate censor "
    "certify charm circle cite claim clarify classify climb clip+ clone collect combine command commission compare "
    "compile complete compliment compose compress compute conceal concede conclude condemn conduct confirm confront "
    "congratulate connect conquer consider construct consume contact contain continue contradict control+ convert "
    "convince convict coordinate cover crack crash criticize cross crown crumble crush cultivate curb curse cushion "
    "damage dazzle debate deceive decipher declare decline decorate decrease dedicate defend define defy delay "
    "delegate delete demand demolish demonstrate deny deposit deport deploy derail descend deserve destroy detain "
    "detect determine develop devote devour dilute diminish direct disable discard discuss dislike display dispute "
    "disrupt dissolve distort distract distribute disturb divide dodge dominate donate double doubt download drain "
    "drench dress drill dry dump duplicate edit educate elect eliminate embarrass embrace emphasize employ enable "
    "endorse endure enforce enjoy enlarge enrich enter equip+ escort establish estimate evacuate evaluate "
    "evict evoke exaggerate exceed exchange exclude excuse execute exhaust expand expect expel+ explore export expose "
    "express extend fascinate fasten favor fetch file fill film filter finance finish fire flatten flatter flip+ "
    "flood fold forge format+ found frame frustrate fulfill fumble fund furnish gather generate glue govern grab+ "
    "grade grant grasp grate grease grill grip+ guard guide halt hammer handle harass harm harvest hate haul haunt "
    "herd hijack honor hunt identify illustrate imagine impose import improve include increase infect "
    "influence inform inherit initiate injure insert insult insure invade invent invest iron irritate isolate jam+ "
    "jeer judge juggle justify kidnap+ kiss knock label laminate land launch lecture level license limit list load "
    "loan locate lodge loosen lower maintain manage manufacture marry mask massage match measure melt mend mention "
    "milk minimize mix moisten mold monitor mop+ motivate mount mumble narrate navigate neglect negotiate "
    "nominate notice notify nudge obey oppose obtain occupy offend operate organize outline outnumber overlook own "
    "pack pamper pardon patch patrol+ peel penalize perceive permit+ persuade pierce pin+ pinch place plaster please "
    "plot+ pluck plug+ poke poison pollute postpone pour praise predict prefer+ prepare present preserve press "
    "prevent process produce program+ project pronounce protect provide provoke prune publish pull pump purchase "
    "purify pursue push question raid rate reassure recall receive recognize recommend reconsider recruit recycle "
    "reduce refill refund refuse regulate reinforce release remind remove rename renovate replace repeat report "
    "represent reproduce request require resist resolve respect restore restrict retain retire retrieve reveal "
    "reverse revive ridicule rinse rip+ roast rob+ rub+ rule sacrifice salute sample save scan+ scatter score scrape "
    "scratch screen seal season seize select separate sew shape share sharpen shave shelter shield shock shovel sip+ "
    "sketch skip+ slam+ slap+ smash smell smuggle snatch soak soften solve soothe sort spoil sponsor spot+ spray "
    "sprinkle squeeze stack staple startle store strangle strap+ strengthen stretch strip+ stroke suggest summarize "
    "summon supervise supply suspect suspend sustain swap+ switch tape target tattoo tax tempt threaten tidy tie "
    "tighten toast torment touch trace track trade transfer+ transform translate transmit+ transport trap+ trick "
    "trigger trim+ twist type uncover underline unite unload unlock unpack unveil update upgrade upload urge use "
    "utilize validate value vandalize vary verify view violate volunteer wag+ warm waste water weigh welcome wipe "
    "worship wound wrap+ wreck wrestle yank bend bind bid bind bleed blow breed broadcast burst cast cling+ deal dig "
    "fling forbid foresee grind lay lend light mean mow put quit ring run say sew shed shoot shrink sink slay sling "
    "slit sow speak spend spin spit stick strike string swear tell think thrust tread undo undergo undertake unwind "
    "uphold upset overcome override oversee overthrow outrun outdo mistake withstand wear wed wind wring spread "
    "foretell feel"
)
PEOPLE: Final = listed(
    "actor adult agent architect astronaut athlete author banker barber beggar bishop brother builder bully burglar "
    "businessman buyer caller candidate captain carpenter cashier cleaner client colonel comedian commander committee "
    "company council court cowboy crew critic crowd designer detective diplomat donor duke editor electrician emperor "
    "employee enemy family farmhand firefighter fisherman gang gardener general girlfriend grandfather granddaughter "
    "hairdresser hunter husband inspector investor jury kid king knight lady landlord leader lifeguard lodger mayor "
    "magician mechanic minister monk monster neighbour niece nun officer opponent owner partner philosopher pirate "
    "plumber colleague politician pope president priest prince princess prisoner producer programmer publisher queen "
    "reader refugee reporter robber salesman sergeant servant sheriff shopkeeper sister speaker spy suspect tailor "
    "team tenant thief toddler trainer translator tribe visitor voter warrior wife winner wizard worker workman bee "
    "cow crocodile crow dolphin duck elephant frog hedgehog hen insect kitten lion lizard monkey moth octopus parrot "
    "penguin pig pony puppy shark snail snake spider tiger turtle virus wasp whale worm"
)
THINGS: Final = listed(
    "account accident address advertisement airport alarm album answer anthem apartment argument army article attack "
    "attempt attic ballot bank banner basement basket bathroom battery battle beach bedroom belt bill blanket blouse "
    "board boot bottle bracelet brick broom bucket building bullet cabin cabinet cable cafe calendar camera candle "
    "canoe cathedral ceiling cellar chain chapter church circle city claim class clock cloud club coat code coin "
    "collection comment community complaint computer concert conclusion copy corner country crime crop crown curve "
    "dam danger debt decision delivery design device diamond dinner dish disease document doll dream dress drawer "
    "drawing earring edge election email emotion engine episode event factory fashion field fight finger fire firm "
    "flight flood floor flower fork fortress garage garden gate gift glass glove goods government grave guitar hall "
    "hammer hat helicopter hill hole holiday hospital house idea insult island jacket jar joke journey keyboard "
    "kitchen ladder lake language law lecture library licence light line link list loan lock lunch magazine mall "
    "mansion market match meeting menu message method mirror mistake monument motorbike mountain museum mystery "
    "necklace needle network newspaper noise number offer office opera orchard order package paragraph park party "
    "patch path pattern pencil phone piano picnic piece pillow pipe plan plant plaster platform playground plot "
    "pocket pole pond pool poster prison problem product programme project promise puzzle quarrel queue hole radio "
    "rail ranch reason receipt recipe record region request rifle ring river road rock roof room root rope rule "
    "rumour sack saddle sail salad sauce saw scarf scheme school scooter screen screw sculpture seat secret series "
    "server shed sheet ship shirt shoe shop shower sign sink skirt sky sofa soup speech square stage staircase "
    "station storm stove street submarine sweater symptom table tank tap target task tax tent test theatre tie tip "
    "toilet tool towel tower town toy track tractor lamp-post trailer treasure treaty trick tunnel tyre uniform "
    "valley van vase vehicle verdict video village vote wage wall wallet war warning watch wave weapon website "
    "wedding wheel whistle wing winner wire wish workshop yard zoo"
)
# Singular, and without an article as often as not.
MASS: Final = listed(
    "bread butter cheese coffee fog fire frost fruit furniture gold grass hail honey ice information jewellery "
    "lava lightning luggage meat milk money mud music news oil paper rain rice salt sand silver smoke snow software "
    "sugar sunlight tea traffic water wind wine wood wool breakfast equipment homework evidence advice"
)
# Takes a plural verb, and is the same in the singular or has none.
ALWAYS_PLURAL: Final = listed("police people sheep scissors trousers glasses deer fish cattle staff jeans")
NAMES: Final = listed(
    "Alice Ben Clara Daniel Ella Frank Grace Hannah Ivan Julia Kevin Laura Mark Nina Oscar Paula Quentin Rosa Simon "
    "Tina Ursula Victor Wendy Xavier Yasmin Zoe Ahmed Bianca Chen Dmitri Elena Fatima Giulia Hiro Isabel Jakob Kofi "
    "Leila Mei Nadia Otto Priya Rashid Sofia Tariq Uma Vera Wei Xenia Yann Zara Marco Lucas James Mary John Sarah "
    "David Google Microsoft Toyota Parliament Congress NASA Shakespeare Mozart Einstein"
)
PLACES: Final = listed(
    "London Paris Berlin Rome Madrid Boston Chicago Texas Canada Mexico Brazil Egypt Kenya India China Japan Korea "
    "Norway Sweden Poland Greece Turkey Russia Australia Europe Asia Africa America Lisbon Vienna Prague Dublin"
)
ADJECTIVES: Final = listed(
    "red blue green white black yellow brown wooden metal golden broken dirty clean warm cold wet dry dark bright "
    "thick thin long short high low deep wide narrow fresh frozen hungry thirsty sick healthy rich poor local foreign "
    "national public private electric nuclear medical royal modern early late first second last next only main huge "
    "tiny giant blind deaf bald elderly retired drunk cruel gentle polite rude nervous jealous curious former armed "
    "unknown rare common simple difficult dangerous safe noisy silent heavy well-known state-owned left-handed"
)
# Before the noun, like an adjective: "a garden chair".
MODIFIERS: Final = listed(
    "garden kitchen city school police hospital winter summer stone paper plastic glass steel computer football "
    "family film music business oil train night birthday wedding coffee tennis research traffic village government "
    "university"
)
# After the auxiliary: "is often seen", "often sees".
ADVERBS: Final = listed(
    "often always usually sometimes rarely never almost nearly already just recently accidentally deliberately also "
    "still officially suddenly probably certainly immediately eventually widely completely badly severely frequently"
)
PARTICLES: Final = listed("up off away down out over back apart in on aside")
PARTICLE_VERBS: Final = listed(
    "pick take turn throw put bring call carry clean cut tear pull push wash blow rip+ knock break switch lock hand "
    "give fill drive write look load chase cross wipe send set kick keep hold let lift lay tie blot+ scare sort burn "
    "eat"
)
# "was asked to leave by": the verbs that take what follows.
COMMANDS: Final = listed("ask tell force allow order beg+ persuade urge encourage forbid teach remind invite permit+")
GIVING: Final = listed(
    "give send show teach offer tell lend bring pay promise hand sell ask serve award grant feed deny"
)
INTRANSITIVE: Final = listed(
    "sleep wait laugh arrive disappear smile work stay live sit stand fall shout dance cry swim walk go come talk "
    "wander"
)
