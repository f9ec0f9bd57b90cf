//! What Jinja2 under transformers knows and this engine does not, said in other words: `{% generation %}`, and `%` on texts.

/// The name of the filter that a `%` becomes.
pub(super) const PERCENT: &str = "percent_operator";

/// The template with the same meaning for this engine.
pub(super) fn rewritten(source: &str) -> String {
    let mut body = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, found) = rest.split_at(start);
        body.push_str(before);
        let length = match found.as_bytes().get(1) {
            Some(b'#') => found.find("#}").map_or(found.len(), |end| end + 2),
            Some(b'{') => tag_length(found, "}}"),
            Some(b'%') if word(found) == "raw" => raw_length(found),
            Some(b'%') => tag_length(found, "%}"),
            _ => 1,
        };
        let (piece, after) = found.split_at(length);
        match (piece.as_bytes().get(1), word(piece)) {
            (Some(b'%'), "generation") => body.push_str(&piece.replacen("generation", "if true", 1)),
            (Some(b'%'), "endgeneration") => body.push_str(&piece.replacen("endgeneration", "endif", 1)),
            (Some(b'%'), "raw") => body.push_str(piece),
            (Some(b'%' | b'{'), _) if piece.len() >= 4 => {
                let inner = piece.len() - 2;
                body.push_str(&piece[..2]);
                body.push_str(&without_percent(&piece[2..inner]));
                body.push_str(&piece[inner..]);
            }
            _ => body.push_str(piece),
        }
        rest = after;
    }
    body.push_str(rest);
    body
}

/// The first word of a tag.
fn word(tag: &str) -> &str {
    let inner = tag.get(2..).unwrap_or_default().trim_start_matches(['-', '+', ' ', '\t', '\n', '\r']);
    let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
    &inner[..end]
}

/// Bytes up to and with the end of a tag, which may also stand in a text; all there are where it has none.
fn tag_length(tag: &str, end: &str) -> usize {
    let mut at = 2;
    while let Some(next) = tag[at..].chars().next() {
        if tag[at..].starts_with(end) {
            return at + 2;
        }
        at += if matches!(next, '\'' | '"') { text_length(&tag[at..]) } else { next.len_utf8() };
    }
    tag.len()
}

/// A raw block with its tags.
fn raw_length(tag: &str) -> usize {
    let ends = tag.match_indices("{%").skip(1).find(|(at, _)| word(&tag[*at..]) == "endraw");
    ends.map_or(tag.len(), |(at, _)| at + tag_length(&tag[at..], "%}"))
}

/// Bytes of the text in quotes with which this begins.
fn text_length(quoted: &str) -> usize {
    let mut characters = quoted.char_indices();
    let quote = characters.next().map(|(_, quote)| quote);
    while let Some((at, next)) = characters.next() {
        match next {
            '\\' => drop(characters.next()),
            _ if Some(next) == quote => return at + 1,
            _ => {}
        }
    }
    quoted.len()
}

/// A piece of an expression.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    /// A name, a keyword or a number.
    Word(&'a str),
    Text(&'a str),
    Open(&'a str),
    Close(&'a str),
    Operator(&'a str),
    Blank(&'a str),
}

impl<'a> Token<'a> {
    fn source(self) -> &'a str {
        match self {
            Self::Word(s) | Self::Text(s) | Self::Open(s) | Self::Close(s) | Self::Operator(s) | Self::Blank(s) => s,
        }
    }

    fn is_keyword(self) -> bool {
        matches!(self, Self::Word("and" | "or" | "not" | "in" | "is" | "if" | "else" | "elif" | "set" | "for"))
    }
}

fn tokens(expression: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(next) = rest.chars().next() {
        let run = |belongs: fn(char) -> bool| rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        let is_number = next.is_ascii_digit();
        let length = match next {
            '\'' | '"' => text_length(rest),
            _ if next.is_whitespace() => run(char::is_whitespace),
            _ if is_number => {
                let whole = run(|c| c.is_alphanumeric() || c == '_');
                let fraction = rest[whole..].strip_prefix('.').filter(|f| f.starts_with(|c: char| c.is_ascii_digit()));
                fraction.map_or(whole, |f| {
                    whole + 1 + f.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(f.len())
                })
            }
            _ if next.is_alphabetic() || next == '_' => run(|c| c.is_alphanumeric() || c == '_'),
            _ if ["**", "//"].iter().any(|double| rest.starts_with(double)) => 2,
            _ => next.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        tokens.push(match next {
            '\'' | '"' => Token::Text(piece),
            '(' | '[' | '{' => Token::Open(piece),
            ')' | ']' | '}' => Token::Close(piece),
            _ if next.is_whitespace() => Token::Blank(piece),
            _ if next.is_alphanumeric() || next == '_' => Token::Word(piece),
            _ => Token::Operator(piece),
        });
        rest = after;
    }
    tokens
}

/// `a % b` as `a|percent(b)`, wherever the operand on the left is not itself the end of a product, which must be a number.
fn without_percent(expression: &str) -> String {
    let mut tokens = tokens(expression);
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == Token::Operator("%")
            && left_stands_alone(&tokens[..at])
            && let Some(end) = right_end(&tokens, at + 1)
        {
            tokens.insert(end, Token::Close(")"));
            tokens.splice(at..=at, [Token::Operator("|"), Token::Word(PERCENT), Token::Open("(")]);
        }
        at += 1;
    }
    tokens.into_iter().map(Token::source).collect()
}

/// The index of the last token before `end` that is no blank.
fn before(tokens: &[Token<'_>], end: usize) -> Option<usize> {
    (0..end).rev().find(|at| !matches!(tokens[*at], Token::Blank(_)))
}

/// Whether the operand at the end of these tokens is no factor and has no sign.
fn left_stands_alone(tokens: &[Token<'_>]) -> bool {
    let Some(mut at) = before(tokens, tokens.len()) else { return false };
    loop {
        match tokens[at] {
            Token::Close(_) => {
                let Some(open) = opening(tokens, at) else { return false };
                at = open;
                // A call or an index: its owner stands directly before.
                match before(tokens, at) {
                    Some(owner) if is_operand_end(tokens[owner]) => {
                        at = owner;
                        continue;
                    }
                    _ => {}
                }
            }
            Token::Word(_) | Token::Text(_) if !tokens[at].is_keyword() => {}
            _ => return false,
        }
        let Some(earlier) = before(tokens, at) else { return true };
        match tokens[earlier] {
            Token::Operator("." | "|") => match before(tokens, earlier) {
                Some(owner) => at = owner,
                None => return false,
            },
            Token::Text(_) if matches!(tokens[at], Token::Text(_)) => at = earlier,
            Token::Operator("*" | "/" | "//" | "**" | "%") => return false,
            Token::Operator("-" | "+") => return before(tokens, earlier).is_some_and(|at| is_operand_end(tokens[at])),
            _ => return true,
        }
    }
}

fn is_operand_end(token: Token<'_>) -> bool {
    matches!(token, Token::Word(_) | Token::Text(_) | Token::Close(_)) && !token.is_keyword()
}

fn opening(tokens: &[Token<'_>], close: usize) -> Option<usize> {
    let mut depth = 0_usize;
    (0..=close).rev().find(|at| {
        match tokens[*at] {
            Token::Close(_) => depth += 1,
            Token::Open(_) => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

fn closing(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    (open..tokens.len()).find(|at| {
        match tokens[*at] {
            Token::Open(_) => depth += 1,
            Token::Close(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    })
}

/// The index behind the operand that begins at `start`, with its attributes, calls and filters.
fn right_end(tokens: &[Token<'_>], start: usize) -> Option<usize> {
    let next = |from: usize| (from..tokens.len()).find(|at| !matches!(tokens[*at], Token::Blank(_)));
    let mut at = next(start)?;
    if matches!(tokens[at], Token::Operator("-" | "+")) {
        at = next(at + 1)?;
    }
    let mut end = match tokens[at] {
        Token::Open(_) => closing(tokens, at)? + 1,
        Token::Word(_) | Token::Text(_) if !tokens[at].is_keyword() => at + 1,
        _ => return None,
    };
    while let Some(at) = next(end) {
        end = match tokens[at] {
            Token::Operator("." | "|") => next(at + 1)? + 1,
            Token::Open("(" | "[") => closing(tokens, at)? + 1,
            Token::Text(_) if matches!(tokens[end - 1], Token::Text(_)) => at + 1,
            Token::Operator("**") => right_end(tokens, at + 1)?,
            _ => break,
        };
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::rewritten;

    #[test]
    fn only_what_has_to_be_is_said_otherwise() {
        for same in [
            "{{ 2 * 7 % 4 }}",
            "{{ -7 % 3 }}",
            "{% if x %}100 % 3{% endif %}",
            "{{ '100 % 3' }}",
            "{# 'a' % b #}",
            "{% raw %}{{ 'a' % b }}{% generation %}{% endraw %}",
            "{ 'a' % b }",
            "{{ 'a",
        ] {
            assert_eq!(rewritten(same), same);
        }
        for (source, expected) in [
            ("{{ '%s' % x }}", "{{ '%s' |percent_operator( x) }}"),
            ("{{ '%s' % (a, b)|upper ~ 'c' }}", "{{ '%s' |percent_operator( (a, b)|upper) ~ 'c' }}"),
            (
                "{% set t = f.g[0] % -y.z(1)['k'] and d %}",
                "{% set t = f.g[0] |percent_operator( -y.z(1)['k']) and d %}",
            ),
            ("{{ 1 + f % x }}", "{{ 1 + f |percent_operator( x) }}"),
            ("{{ '%}' % '}}' }}%}", "{{ '%}' |percent_operator( '}}') }}%}"),
            ("{{ 7 % 4 % 2 }}", "{{ 7 |percent_operator( 4) |percent_operator( 2) }}"),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
        ] {
            assert_eq!(rewritten(source), expected);
        }
    }
}
