//! A second world, of which the demo's model has never heard: the same relations in the same words, and other people, towns, rivers
//! and things, with facts of their own. Trades, foods, colours and the like are words of the language and stay.
//!
//! To a model that knows the first world by heart it is what a text of elsewhere is to a large one: a text that it did not see, in a
//! language that it knows.

use std::sync::LazyLock;

use super::{
    Split,
    draw::Draw,
    stories::Teller,
    world::{Names, World},
};

/// The second world.
pub(crate) static FOREIGN: LazyLock<World> = LazyLock::new(|| World::new(&NAMES));

/// What the second world calls its own. No name of it is one of the first world, nor one that is made of sounds.
pub(crate) static NAMES: Names = Names {
    purpose: "foreign world",
    women: &WOMEN,
    men: &MEN,
    families: &FAMILIES,
    towns: &TOWNS,
    rivers: &RIVERS,
    epithets: &EPITHETS,
    nouns: &NOUNS,
};

/// Number of documents.
pub(crate) fn count(split: Split) -> u64 {
    if split == Split::Train { 40_000 } else { 400 }
}

/// Document `index` of a split: of the train split running text and questions in the proportion of the first world's.
pub(crate) fn document(split: Split, index: u64) -> String {
    let purpose = match split {
        Split::Train => "foreign/train",
        Split::Valid => "foreign/valid",
        Split::Test => "foreign/test",
    };
    let mut draw = Draw::new(purpose, index);
    let asks = split == Split::Train && draw.chance(27);
    let teller = Teller::of(&FOREIGN, split, draw);
    if asks { teller.lesson() } else { teller.story() }
}

/// Given names of women.
static WOMEN: [&str; 128] = [
    "Abigail", "Adela", "Agatha", "Aileen", "Alice", "Alina", "Althea", "Amanda", "Anita", "Annika", "Audrey",
    "Barbara", "Beryl", "Bettina", "Blanche", "Bonnie", "Carmen", "Carol", "Cassie", "Celeste", "Chloe", "Cindy",
    "Claire", "Connie", "Cynthia", "Danica", "Deborah", "Denise", "Dinah", "Dolores", "Dorothy", "Eileen", "Eleanor",
    "Elise", "Eliza", "Elvira", "Emily", "Enid", "Estelle", "Eugenie", "Eunice", "Evelyn", "Felicia", "Gail",
    "Georgia", "Gladys", "Glenda", "Gloria", "Gretel", "Hazel", "Heidi", "Helen", "Hermia", "Hester", "Imogen",
    "Ingrid", "Isabel", "Jane", "Janet", "Jasmine", "Jemima", "Jessica", "Jill", "Josie", "Joyce", "Juliet", "Katrina",
    "Kitty", "Laura", "Leah", "Leila", "Leticia", "Lillian", "Lisbeth", "Lois", "Louise", "Lucinda", "Luisa",
    "Lynette", "Madge", "Maisie", "Marcia", "Margot", "Marian", "Marion", "Marjorie", "Maxine", "Melanie", "Melissa",
    "Miranda", "Miriam", "Molly", "Muriel", "Myra", "Myrtle", "Naomi", "Natalie", "Nelly", "Noreen", "Norma", "Olivia",
    "Pamela", "Pauline", "Peggy", "Penelope", "Rachel", "Regina", "Roberta", "Roxana", "Sadie", "Sally", "Sandra",
    "Sarah", "Sheila", "Sophie", "Sylvie", "Tabitha", "Teresa", "Thelma", "Trudy", "Una", "Viola", "Virginia",
    "Vivian", "Wendy", "Willa", "Xenia", "Yolanda",
];

/// Given names of men.
static MEN: [&str; 128] = [
    "Aaron", "Adrian", "Alan", "Aldous", "Alec", "Alvin", "Andrew", "Angus", "Archie", "Armand", "Arnold", "Asher",
    "Austin", "Basil", "Benedict", "Bernard", "Blaise", "Brian", "Byron", "Calvin", "Carl", "Cecil", "Charles",
    "Chester", "Clarence", "Claude", "Clement", "Clifford", "Clive", "Conor", "Craig", "Curtis", "Cuthbert", "Cyrus",
    "Darius", "Derek", "Desmond", "Dominic", "Donald", "Douglas", "Dudley", "Dwight", "Edward", "Elliot", "Elmer",
    "Ephraim", "Erwin", "Eugene", "Everett", "Francis", "Franklin", "Fraser", "Gabriel", "Gaston", "Geoffrey",
    "George", "Giles", "Graham", "Gregory", "Griffin", "Harvey", "Henry", "Howard", "Humphrey", "Ian", "Ignatius",
    "Irving", "Ivo", "Jack", "James", "Jeremy", "Jethro", "Julian", "Justin", "Keith", "Kevin", "Lambert", "Leon",
    "Leslie", "Lewis", "Lloyd", "Louis", "Luke", "Luther", "Marvin", "Maxwell", "Michael", "Miles", "Mortimer",
    "Moses", "Murray", "Ned", "Nigel", "Oliver", "Orlando", "Osbert", "Percy", "Philip", "Quincy", "Randolph",
    "Reginald", "Robert", "Roderick", "Roger", "Roland", "Ronald", "Roy", "Rufus", "Russell", "Seth", "Sidney",
    "Spencer", "Stanley", "Stephen", "Theodore", "Thomas", "Timothy", "Titus", "Ulric", "Vernon", "Victor", "Vincent",
    "Walter", "Warren", "Wesley", "Wilfred", "William", "Winston",
];

/// Family names; each is borne by four people.
static FAMILIES: [&str; 64] = [
    "Abbott", "Aldridge", "Atwood", "Baxter", "Beaumont", "Bingley", "Bolton", "Bradshaw", "Briggs", "Burton",
    "Carlisle", "Chadwick", "Clifton", "Compton", "Cromwell", "Crosby", "Darcy", "Dawson", "Drummond", "Eastman",
    "Edgerton", "Emerson", "Forster", "Galloway", "Gibson", "Gilmore", "Haldane", "Hammond", "Harding", "Hastings",
    "Higgins", "Hopkins", "Hudson", "Jarvis", "Jennings", "Kirby", "Lawson", "Leighton", "Lindley", "Mallory",
    "Marsden", "Mortlake", "Nesbitt", "Nichols", "Ogden", "Paxton", "Perkins", "Quayle", "Ramsay", "Rawlings",
    "Ridley", "Rowntree", "Seymour", "Shelby", "Skelton", "Stafford", "Talbot", "Tilney", "Tyndall", "Vaughan",
    "Warwick", "Webster", "Weston", "Wilcox",
];

static TOWNS: [&str; 24] = [
    "Arlingham",
    "Birchley",
    "Bleasdale",
    "Burnside",
    "Clayhurst",
    "Cranwick",
    "Daleford",
    "Elmsworth",
    "Fernleigh",
    "Greystoke",
    "Hexton",
    "Ivybridge",
    "Kelmarsh",
    "Lindale",
    "Marshcote",
    "Northwold",
    "Otterbourne",
    "Priorsfield",
    "Rushmere",
    "Stonebeck",
    "Tarnfell",
    "Uppingdale",
    "Wolverley",
    "Yewdale",
];

static RIVERS: [&str; 8] = ["Bourne", "Calder", "Derwent", "Irwell", "Kennet", "Lune", "Severn", "Wharfe"];

/// First words of the names of things; each names two.
static EPITHETS: [&str; 24] = [
    "Amber", "Cloudy", "Burning", "Crimson", "Distant", "Falling", "Frozen", "Gentle", "Gilded", "Golden", "Buried",
    "Icy", "Jolly", "Midnight", "Mighty", "Misty", "Painted", "Proud", "Rising", "Sacred", "Secret", "Shining",
    "Singing", "Weeping",
];

/// Second words of the names of things; each names four.
static NOUNS: [&str; 12] = [
    "Anchor", "Banner", "Chalice", "Crown", "Fountain", "Key", "Ladder", "Mask", "Sceptre", "Shield", "Throne", "Tower",
];
