//! Sentences of stories that tell no fact: weather, errands, manners. Placeholders as in `wordings.rs`.

pub(crate) const OPENINGS: [&str; 20] = [
    "One rainy morning",
    "On a cold evening in autumn",
    "Early in the day",
    "At noon",
    "Late one night",
    "On a bright day in May",
    "When the snow had melted",
    "Shortly before the harvest",
    "After the great storm",
    "On the eve of the feast",
    "While the bells were ringing",
    "In the last week of winter",
    "Under a pale moon",
    "In the heat of the afternoon",
    "On the first warm day of the year",
    "When the fog had lifted",
    "Just before sunrise",
    "On the longest day of summer",
    "Three days after the flood",
    "When the lamps were being lit",
];

/// What somebody was doing in a town, `{v}`.
pub(crate) const ERRANDS: [&str; 20] = [
    "was crossing the square of {v}",
    "sat on a bench by the gate of {v}",
    "was waiting for the ferry near {v}",
    "walked through the narrow streets of {v}",
    "stopped at the inn of {v}",
    "was looking for shelter in {v}",
    "leaned against the wall of the old mill at {v}",
    "came to the market of {v}",
    "was resting under the elms of {v}",
    "carried a heavy basket through {v}",
    "had lost the way somewhere behind {v}",
    "was mending a wheel outside {v}",
    "stood at the well of {v}",
    "was buying candles in {v}",
    "followed the sound of music through {v}",
    "was hurrying to the post office of {v}",
    "had just arrived in {v}",
    "was visiting a cousin in {v}",
    "watched the boats from the bridge at {v}",
    "was on the way to the doctor in {v}",
];

/// How a second person comes into the story of the first, the subject: `{v}` is a name and a clause, closed by a comma or the
/// end of the sentence.
pub(crate) const ENCOUNTERS: [&str; 8] = [
    "There {s} met {v}.",
    "Suddenly {v}, came round the corner.",
    "{v}, was already there.",
    "Behind {o} stood {v}.",
    "Not far away {s} noticed {v}.",
    "A voice called out, and it belonged to {v}.",
    "Beside {o} sat {v}.",
    "On the way {s} had been joined by {v}.",
];

/// Two people, the subject and `{v}`, do something together.
pub(crate) const EVENTS: [&str; 24] = [
    "They shared a loaf of bread and talked until dusk.",
    "Together they carried the basket up the hill.",
    "They laughed about the weather.",
    "A dog barked at them from a doorway.",
    "They sat down by the fire.",
    "For a while neither of them said a word.",
    "{S} offered {v} a cup of hot tea.",
    "{v} told {O} a long story about a bear.",
    "They played a game of chess, and {v} won.",
    "They played a game of cards, and {S} won.",
    "The wind blew {P} hat into the water.",
    "{S} lent {v} an umbrella.",
    "It began to rain, so they went inside.",
    "A cart rolled past and splashed mud on their boots.",
    "They looked for the key under every stone.",
    "{v} had a cold and sneezed three times.",
    "They counted the stars above the roofs.",
    "{S} showed {v} an old map.",
    "They agreed to write letters to each other.",
    "Somewhere a door slammed.",
    "{v} sang a song that nobody knew.",
    "They quarrelled a little about the right road.",
    "{S} had forgotten the money at home.",
    "They fed the crumbs to the sparrows.",
];

/// How a story of two ends.
pub(crate) const CLOSINGS: [&str; 14] = [
    "Then {S} went home, and {v} stayed.",
    "When they parted, it was already dark.",
    "The next day both of them had forgotten the matter.",
    "{S} promised to come back soon.",
    "After that they met every week.",
    "It was a good day.",
    "In the end {v} fell asleep by the stove.",
    "{v} waved until {S} was out of sight.",
    "Nobody ever learned what they had talked about.",
    "So they became friends.",
    "{S} thought about it for a long time.",
    "Then the bell rang, and they had to hurry.",
    "That was the last warm evening of the year.",
    "And {v} paid for the supper.",
];

/// Of people.
pub(crate) const MANNERS: [&str; 28] = [
    "{S} laughs often and sleeps little.",
    "{S} does not like long speeches.",
    "The children are fond of {O}.",
    "{S} rises before the sun.",
    "Nobody has ever seen {O} angry.",
    "{S} walks with a stick since the accident.",
    "{S} writes many letters.",
    "{P} neighbours trust {O}.",
    "{S} is afraid of thunder.",
    "{S} tells the best stories.",
    "{P} memory is better than any book.",
    "{S} has two brothers and a sister.",
    "{S} hums while working.",
    "It is hard to make {O} laugh.",
    "{S} never arrives late.",
    "{S} collects old coins.",
    "{P} handwriting is hard to read.",
    "{S} cannot swim.",
    "{S} knows every path in the hills.",
    "{S} has never been ill.",
    "Strangers take {O} for a poet.",
    "{S} would rather listen than talk.",
    "{P} coat has seen better days.",
    "{S} wins every race.",
    "One can rely on {O}.",
    "{S} goes to bed early.",
    "{S} has a scar on {p} left hand.",
    "{S} is good at keeping secrets.",
];

/// Of towns.
pub(crate) const SIGHTS: [&str; 14] = [
    "The streets are steep and narrow.",
    "Many of the houses are older than the church.",
    "The winters are long there.",
    "Storks nest on the roofs.",
    "There is only one inn, but it is a good one.",
    "The walls were pulled down long ago.",
    "Visitors are always welcome.",
    "At night the streets are quiet.",
    "The road there is full of stones.",
    "A school was opened three years ago.",
    "The mayor sleeps until noon.",
    "In summer the air smells of hay.",
    "The church has two towers.",
    "Nobody locks the door at night.",
];

/// Of things.
pub(crate) const RUMOURS: [&str; 12] = [
    "Some say that {S} is haunted.",
    "Thieves have tried to steal {O} twice.",
    "It was lost for many years and found in a barn.",
    "Children are not allowed to touch {O}.",
    "Nobody knows how old {S} really is.",
    "On feast days {S} is covered with flowers.",
    "A song has been written about {O}.",
    "There is a crack on one side.",
    "Painters come from far away to draw {O}.",
    "It weighs more than a horse.",
    "Once {S} fell into the river.",
    "A copy can be bought at every market.",
];

/// Put before a whole statement.
pub(crate) const HEARSAY: [&str; 12] = [
    "It is said that ",
    "Everybody knows that ",
    "They say that ",
    "As far as anybody remembers, ",
    "Nobody will be surprised that ",
    "The old people tell that ",
    "It is true that ",
    "If the rumours are right, ",
    "Few people know that ",
    "In the book of the valley it is written that ",
    "One often hears that ",
    "As you may know, ",
];

pub(crate) const GREETINGS: [&str; 10] = [
    "I hope that this letter finds you well.",
    "It has been a long time since we last spoke.",
    "Thank you for the parcel.",
    "You asked me to tell you more about myself.",
    "The weather here has been terrible.",
    "I am writing this by candlelight.",
    "Your letter made me very happy.",
    "Forgive me for my long silence.",
    "The roads are closed, so I have time to write.",
    "I have a cold and must stay in bed.",
];

pub(crate) const FAREWELLS: [&str; 10] = [
    "Write to me soon.",
    "Come and visit me when you can.",
    "Give my love to your family.",
    "I must stop now, the lamp is going out.",
    "Do not forget me.",
    "I will tell you the rest when we meet.",
    "Keep this letter to yourself.",
    "May the spring come early.",
    "The post cart is leaving, so I must end here.",
    "Burn this when you have read it.",
];

/// How a letter turns to somebody or something else, `{v}`.
pub(crate) const NEWS: [&str; 8] = [
    "I have news of {v}.",
    "Do you remember {v}?",
    "Yesterday we spoke about {v}.",
    "You wanted to hear about {v}.",
    "My aunt cannot stop talking about {v}.",
    "Now to {v}.",
    "Have you heard of {v}?",
    "In your last letter you mentioned {v}.",
];

/// How a conversation turns to somebody or something else, `{v}`.
pub(crate) const GOSSIP: [&str; 6] = [
    "Have you heard of {v}?",
    "What do you know about {v}?",
    "Tell me something about {v}",
    "Do you remember {v}?",
    "You must have heard of {v}",
    "Let us speak of {v}",
];

pub(crate) const SAID: [&str; 6] = ["said", "answered", "replied", "explained", "whispered", "murmured"];

/// How somebody sets out on a journey.
pub(crate) const DEPARTURES: [&str; 8] = [
    "Last spring {S} set out to see the valley.",
    "Once {S} travelled for a whole month.",
    "When the harvest was done, {S} packed a bag and left.",
    "In {p} youth {S} went on a long journey.",
    "A doctor had told {O} to see other places.",
    "With nothing but a stick and a loaf of bread, {S} began to walk.",
    "One day {S} decided to follow the road to its end.",
    "For a wager {S} walked through the whole valley.",
];

/// How a journey reaches a town, `{v}` with a predicate.
pub(crate) const STATIONS: [&str; 8] = [
    "First {S} came to {v}.",
    "The road led to {v}.",
    "Two days later {S} reached {v}.",
    "In the evening {S} saw the lights of {v}.",
    "A farmer took {O} along to {v}.",
    "Then {S} rested in {v}.",
    "From the hill {S} could see {v}.",
    "The next stop was {v}.",
];

/// How a town's description turns to somebody who lives there, `{v}` with a predicate.
pub(crate) const CITIZENS: [&str; 6] = [
    "Among those who live there is {v}.",
    "One of its citizens is {v}.",
    "In one of the houses lives {v}.",
    "A well-known face in its streets is {v}, who lives there.",
    "There also lives {v}.",
    "Among its people one finds {v}.",
];

/// How a person's description begins, before the first fact.
pub(crate) const PORTRAITS: [&str; 6] = [
    "This is the story of {N}.",
    "Let me tell you about {N}.",
    "There are many tales about {N}.",
    "Who does not know {N}?",
    "Much could be said about {N}.",
    "In the valley lives {N}.",
];
