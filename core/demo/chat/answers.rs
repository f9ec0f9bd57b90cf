//! Questions about people of the world.

use super::{
    super::{Draw, Relation, Split, lessons, world::WORLD},
    Turn,
    questions::questions,
};

pub(super) fn turns(draw: &mut Draw, split: Split, count: usize) -> Vec<Turn> {
    let dealt = questions(draw, split, &Relation::PERSON, count);
    let turn = |(fact, form)| Turn::new("known", lessons::question(fact, form), replies(WORLD.value(fact)));
    dealt.into_iter().map(turn).collect()
}

/// The reply with an answer, and the answer alone.
pub(super) fn replies(answer: &str) -> Vec<String> {
    vec![lessons::reply(answer), answer.to_owned()]
}
