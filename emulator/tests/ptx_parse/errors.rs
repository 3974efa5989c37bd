//! Where and what is wrong.

use super::*;

fn error(text: &str) -> ParseError {
    match parse(text) {
        Ok(_) => panic!("no error in:\n{text}"),
        Err(error) => error,
    }
}

#[test]
fn errors_say_where_and_what() {
    let in_kernel = |statement: &str| {
        format!("{HEAD}.visible .entry k()\n{{\n.reg .b32 %r<4>;\n  {statement}\n}}\n")
    };
    let cases: Vec<(String, &str)> = vec![
        (
            "".into(),
            "PTX line 1, column 1: met the end of the text, expected `.version`",
        ),
        (
            "\n  hello".into(),
            "PTX line 2, column 3: met `hello`, expected `.version`",
        ),
        (
            ".version 9.9\n.target sm_80".into(),
            "PTX line 1, column 10: PTX version 9.9 is newer than 9.0, the newest understood",
        ),
        (
            ".version 8.0\n.target sm_".into(),
            "PTX line 2, column 9: met `sm_`, expected a target such as `sm_80`",
        ),
        (
            ".version 8.0\n.target sm_80\n.address_size 32".into(),
            "PTX line 3, column 15: `.address_size 32` is not supported",
        ),
        (
            format!("{HEAD}.global .texref t;"),
            "PTX line 4, column 9: `.texref` is not supported",
        ),
        (
            format!("{HEAD}.global .f32 x = 1;"),
            "PTX line 4, column 18: met `1`, expected a floating-point value, as the variable's type asks",
        ),
        (
            format!("{HEAD}.global .b32 x[2] = {{1, 2, 3}};"),
            "PTX line 4, column 30: more than 2 elements in the initialiser of this array",
        ),
        (
            format!("{HEAD}.global .b32 x;\n.global .b32 x;"),
            "PTX line 5, column 14: `x` is already declared in this scope",
        ),
        (
            format!("{HEAD}.section .debug_str\n{{\n.b8 95\n}}\n  hello"),
            "PTX line 8, column 3: met `hello`, expected a directive such as `.entry`, `.func` or `.global`",
        ),
        (
            format!("{HEAD}.section .debug_str\n{{\n.b8 95"),
            "PTX line 6, column 7: met the end of the text, expected `}` at the end of the section",
        ),
        (
            format!("{HEAD}/* never ends"),
            "PTX line 4, column 1: met a comment without end, expected `*/`",
        ),
        (
            format!("{HEAD}.pragma \"never ends"),
            "PTX line 4, column 9: met a string without end, expected `\"` on the same line",
        ),
        (
            in_kernel("mov.b32 %r1 %r2;"),
            "PTX line 7, column 15: met `%r2`, expected `,` or `;`",
        ),
        (
            in_kernel("mov.b32 %r1, %r9;"),
            "PTX line 7, column 16: `%r9` is not declared",
        ),
        (
            in_kernel("bra nowhere;"),
            "PTX line 7, column 7: `nowhere` is not declared",
        ),
        (
            in_kernel("ld.u32 %r1, [0f3F800000];"),
            "PTX line 7, column 16: met `0f3F800000`, expected an address",
        ),
        (
            in_kernel("mov.b32 %r1, 0x;"),
            "PTX line 7, column 16: bad number `0x`: a digit does not belong to it",
        ),
        (
            in_kernel("mov.b32 %r1, 19f;"),
            "PTX line 7, column 16: bad number `19f`: a digit does not belong to it",
        ),
        (
            in_kernel("mov.f32 %r1, 0f3F8;"),
            "PTX line 7, column 16: bad number `0f3F8`: `0f` takes exactly 8 hexadecimal digits",
        ),
        (
            in_kernel("mov.b32 %r1, 1/0;"),
            "PTX line 7, column 19: bad number `1 / 0`: division by zero",
        ),
        (
            in_kernel("mov.b32 %r1, é;"),
            "PTX line 7, column 16: met the character 'é', expected PTX",
        ),
        (
            in_kernel("/* é */ mov.b32 %r1, #;"),
            "PTX line 7, column 24: met the character '#', expected PTX",
        ),
        (
            in_kernel("L: L: ret;"),
            "PTX line 7, column 6: `L` is already declared in this scope",
        ),
        (
            in_kernel("{ ret;"),
            "PTX line 9, column 1: met the end of the text, expected an instruction, a declaration, a label or `}`",
        ),
        (
            in_kernel(".reg .b32 %x<4000000000>;"),
            "PTX line 7, column 27: more than 4194304 registers in a module",
        ),
        (
            in_kernel(&format!(
                "mov.b32 %r1, {}1{};",
                "(".repeat(500),
                ")".repeat(500)
            )),
            "PTX line 7, column 115: more than 100 levels of nesting",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&text).to_string(), expected, "{text}");
    }
    let newer = error(&format!(
        ".version {}.{}\n",
        MAX_VERSION.0,
        MAX_VERSION.1 + 1
    ));
    assert!(matches!(newer.kind, ParseErrorKind::VersionTooNew { max, .. } if max == MAX_VERSION));
}
