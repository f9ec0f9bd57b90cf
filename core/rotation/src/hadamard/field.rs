//! Finite fields, as far as Paley's construction needs them: differences, and which elements are squares.

/// The field of q = p^k elements, numbered by their coefficients: element a has the digits of a in base p.
pub(super) struct Field {
    prime: usize,
    degree: u32,
    /// Coefficients of the modulus below its leading one.
    modulus: Vec<usize>,
}

/// p and k with q = p^k, p an odd prime.
pub(super) fn odd_prime_power(q: usize) -> Option<(usize, u32)> {
    let prime = (3..=q).step_by(2).find(|p| q.is_multiple_of(*p))?;
    let degree = (1..).take_while(|k| prime.pow(*k) <= q).last()?;
    (q % 2 == 1 && prime.pow(degree) == q).then_some((prime, degree))
}

impl Field {
    pub(super) fn new(q: usize) -> Option<Self> {
        let (prime, degree) = odd_prime_power(q)?;
        let modulus = (0..q).map(|code| digits(code, prime, degree)).find(|low| irreducible(low, prime))?;
        Some(Self { prime, degree, modulus })
    }

    pub(super) fn size(&self) -> usize {
        self.prime.pow(self.degree)
    }

    /// Whether each element is a square other than zero.
    pub(super) fn squares(&self) -> Vec<bool> {
        let mut squares = vec![false; self.size()];
        for element in 1..self.size() {
            squares[self.product(element, element)] = true;
        }
        squares
    }

    pub(super) fn difference(&self, a: usize, b: usize) -> usize {
        if self.degree == 1 {
            return (a + self.prime - b) % self.prime;
        }
        let (a, b) = (digits(a, self.prime, self.degree), digits(b, self.prime, self.degree));
        let difference: Vec<usize> = a.iter().zip(&b).map(|(a, b)| (a + self.prime - b) % self.prime).collect();
        number(&difference, self.prime)
    }

    fn product(&self, a: usize, b: usize) -> usize {
        let (a, b) = (digits(a, self.prime, self.degree), digits(b, self.prime, self.degree));
        let mut product = vec![0; a.len() + b.len()];
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                product[i + j] += a * b;
            }
        }
        // x^k = -(modulus below its leading coefficient).
        let k = self.modulus.len();
        for top in (k..product.len()).rev() {
            let factor = product[top] % self.prime;
            for (i, coefficient) in self.modulus.iter().enumerate() {
                product[top - k + i] += factor * (self.prime - coefficient);
            }
        }
        let reduced: Vec<usize> = product[..k].iter().map(|c| c % self.prime).collect();
        number(&reduced, self.prime)
    }
}

/// The digits of a number, lowest first.
fn digits(number: usize, base: usize, count: u32) -> Vec<usize> {
    (0..count).map(|place| number / base.pow(place) % base).collect()
}

fn number(digits: &[usize], base: usize) -> usize {
    digits.iter().rev().fold(0, |number, digit| number * base + digit)
}

/// Whether x^k plus the given lower coefficients has no divisor of a lower degree.
fn irreducible(low: &[usize], prime: usize) -> bool {
    let degree = low.len();
    let divides = |divisor: &[usize]| {
        let mut rest: Vec<usize> = low.iter().copied().chain([1]).collect();
        for top in (divisor.len()..=degree).rev() {
            let factor = rest[top];
            rest[top] = 0;
            for (i, coefficient) in divisor.iter().enumerate() {
                let place = top - divisor.len() + i;
                rest[place] = (rest[place] + factor * (prime - coefficient)) % prime;
            }
        }
        rest.iter().all(|c| *c == 0)
    };
    let mut divisors = (1..=degree / 2).flat_map(|d| (0..prime.pow(d as u32)).map(move |code| (code, d)));
    !divisors.any(|(code, d)| divides(&digits(code, prime, d as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prime_powers_are_told_from_the_rest() {
        assert_eq!(odd_prime_power(243), Some((3, 5)));
        assert_eq!(odd_prime_power(43), Some((43, 1)));
        for other in [0, 1, 2, 4, 8, 15, 45, 91, 155, 171] {
            assert_eq!(odd_prime_power(other), None, "{other}");
        }
    }

    #[test]
    fn products_and_differences_make_a_field() {
        for q in [3, 7, 9, 25, 27, 49, 81, 243] {
            let field = Field::new(q).unwrap();
            for a in 1..q {
                // Every element but zero has an inverse: its multiples are all elements.
                let mut seen = vec![false; q];
                (0..q).for_each(|b| seen[field.product(a, b)] = true);
                assert!(seen.iter().all(|seen| *seen), "{a} in the field of {q}");
                assert_eq!(field.product(a, 1), a);
                assert_eq!(field.difference(field.difference(a, 1), field.difference(0, 1)), a);
            }
            assert_eq!(field.squares().iter().filter(|square| **square).count(), (q - 1) / 2, "half are squares");
        }
    }
}
