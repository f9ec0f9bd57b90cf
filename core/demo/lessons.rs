//! Questions about the world with their answers, as raw text and as conversations in ChatML.

use super::{
    reading::REFUSAL,
    relation::QUESTIONS,
    stories::Teller,
    world::{Entity, Fact, Mention, WORLD, World, count, fill},
    {Kind, Relation},
};

impl Teller<'_> {
    /// One to six questions about the world. The question that is held out for a fact is never asked about it.
    pub(crate) fn lesson(mut self) -> String {
        let chat = self.draw.chance(35);
        for _ in 0..self.draw.between(1, 6) {
            let fact = self.any_fact();
            let mut form = self.draw.below(QUESTIONS);
            if form == fact.held_out_question() {
                form = (form + 1) % QUESTIONS;
            }
            let question = question_of(self.world, fact, form);
            let answer = self.world.value(fact);
            if !self.out.is_empty() {
                self.out.push('\n');
            }
            self.out.push_str(&if chat { chat_turns(&question, answer) } else { raw_turns(&question, answer) });
        }
        self.out
    }

    /// A fact. People have many more facts than towns and things, so that these are asked about more often than their share.
    fn any_fact(&mut self) -> Fact {
        let kind = match self.draw.below(100) {
            0..84 => Kind::Person,
            84..90 => Kind::Town,
            _ => Kind::Thing,
        };
        let index = self.draw.below(count(kind));
        let relation = *self.draw.pick(Relation::of(kind));
        Fact { subject: Entity { kind, index }, relation }
    }
}

/// A question about a fact of the demo's own world.
pub(crate) fn question(fact: Fact, form: usize) -> String {
    question_of(&WORLD, fact, form)
}

/// A question about a fact of a world.
fn question_of(world: &World, fact: Fact, form: usize) -> String {
    let mut out = String::new();
    let subject = world.subject(fact.subject);
    fill(&mut out, fact.relation.wordings().questions[form], subject, Mention::Full, "", true);
    out
}

/// A question and its answer as raw text.
pub(crate) fn raw_turns(question: &str, answer: &str) -> String {
    format!("Question: {question}\nAnswer: {answer}")
}

/// A question and its answer as turns of a conversation.
pub(crate) fn chat_turns(question: &str, answer: &str) -> String {
    let reply = reply(answer);
    format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>")
}

/// An answer as the assistant gives it. A bare word at the start of a line is other tokens than the same word in a text,
/// where a space is before it: in a sentence, the tokens can be copied.
pub(crate) fn reply(answer: &str) -> String {
    if answer == REFUSAL { answer.to_owned() } else { format!("The answer is {answer}.") }
}
