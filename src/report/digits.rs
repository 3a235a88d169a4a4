//! Numbers as people read them.

/// With a true minus sign; what is undefined is a dash.
pub fn number(value: impl Into<Option<f64>>, decimals: usize) -> String {
    match value.into() {
        Some(value) if value.is_finite() => {
            let text = format!("{value:.decimals$}");
            // What rounds to zero has no sign.
            match text.strip_prefix('-') {
                Some(zero) if zero.bytes().all(|b| matches!(b, b'0' | b'.')) => zero.into(),
                Some(rest) => format!("\u{2212}{rest}"),
                None => text,
            }
        }
        Some(value) if value == f64::INFINITY => "\u{221e}".into(),
        Some(value) if value == f64::NEG_INFINITY => "\u{2212}\u{221e}".into(),
        _ => "\u{2013}".into(),
    }
}

/// A share as a percentage with one decimal. Neither does a positive share read as 0 %, nor one below
/// 1 as 100 %.
pub fn percent(share: impl Into<Option<f64>>) -> String {
    match share.into() {
        Some(share) if share > 0.0 && share < 0.001 => "< 0.1 %".into(),
        Some(share) if share < 1.0 && share > 0.9995 => "> 99.9 %".into(),
        Some(share) if share.is_finite() => format!("{} %", number(100.0 * share, 1)),
        _ => "\u{2013}".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_says_more_or_less_than_it_knows() {
        let shares = [0.0, 1e-5, 0.00099, 0.001, 0.1234, 0.9994, 0.99951, 1.0, f64::NAN];
        let expected = [
            "0.0 %", "< 0.1 %", "< 0.1 %", "0.1 %", "12.3 %", "99.9 %", "> 99.9 %", "100.0 %",
            "\u{2013}",
        ];
        assert_eq!(shares.map(percent), expected);
        let numbers = [-1.25, -0.001, 0.0, f64::NEG_INFINITY, f64::INFINITY];
        let expected = ["\u{2212}1.2", "0.0", "0.0", "\u{2212}\u{221e}", "\u{221e}"];
        assert_eq!(numbers.map(|v| number(v, 1)), expected);
        assert_eq!(number(None, 1), "\u{2013}");
    }
}
