//! What a `.cu` and its launch file both state is held equal: every field of every parameter struct (name, order,
//! type, offset), the struct's size, the kernels and their threads and shared memory, the tiles, and the constants.
//! The `.cu` files are read as text, so no feature and no compiler is needed. Each kind of difference is planted once.

use std::path::Path;

use ddu::device::kernels::{Field, Source};
use ddu::device::launch::{NESTED, SOURCES, conv2d, density};

/// `kernels/<file>.cu` and what it includes of `kernels/common`, without comments.
fn text(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut all = String::new();
    let mut open = vec![folder.join(format!("{file}.cu"))];
    while let Some(path) = open.pop() {
        let text = std::fs::read_to_string(&path).unwrap();
        let includes =
            text.lines().filter_map(|line| line.strip_prefix("#include \"")?.split('"').next());
        for name in includes.filter(|name| !name.contains("simt")) {
            open.push(path.parent().unwrap().join(name));
        }
        for line in text.lines() {
            all += line.split("//").next().unwrap();
            all.push('\n');
        }
    }
    all
}

/// A field of a C++ struct: name, the type that Rust has for it, bytes, alignment.
type Member = (String, String, usize, usize);

/// A field's name, type and offset, for each; the struct's size.
type Layout = (Vec<(String, String, usize)>, usize);

/// Fields and size by the rules of the C++ ABI; an error names what is not understood.
fn parse(text: &str, name: &str) -> Result<Layout, String> {
    let start = text.find(&format!("struct {name} {{")).ok_or(format!("no struct {name}"))?;
    let body = text[start..].split_once('{').unwrap().1.split_once("};").unwrap().0;
    let mut members: Vec<Member> = Vec::new();
    for declaration in body.split(';').map(str::trim).filter(|d| !d.is_empty()) {
        let (kind, names) = match declaration.rsplit_once('*') {
            Some((_, names)) => ("Address", names),
            None => declaration.split_once(' ').ok_or(format!("{declaration}: no name"))?,
        };
        for name in names.split(',').map(str::trim) {
            let (kind, bytes, align) = match kind {
                "Address" => ("Address", 8, 8),
                "int32_t" => ("i32", 4, 4),
                "float" => ("f32", 4, 4),
                "int64_t" => ("i64", 8, 8),
                "TensorMap" => ("TensorMap", 128, 64),
                // A struct of kernels/common/, all of whose fields are 32 bits wide.
                other => match parse(text, other) {
                    Ok((_, bytes)) => (other, bytes, 4),
                    Err(error) => return Err(format!("{declaration}: {error}")),
                },
            };
            let member = match name.split_once('[') {
                None => (name.into(), kind.into(), bytes, align),
                Some((name, count)) => {
                    let count: usize = count.trim_end_matches(']').parse().unwrap();
                    (name.into(), format!("[{kind}; {count}]"), bytes * count, align)
                }
            };
            members.push(member);
        }
    }
    let (mut offset, mut alignment) = (0usize, 1);
    let mut fields = Vec::new();
    for (name, kind, bytes, align) in members {
        offset = offset.next_multiple_of(align);
        fields.push((name, kind, offset));
        offset += bytes;
        alignment = alignment.max(align);
    }
    Ok((fields, offset.next_multiple_of(alignment)))
}

/// The number that `constexpr int .. name = number` gives.
fn constant(text: &str, name: &str) -> Option<usize> {
    let lines = text.lines().filter(|line| line.trim_start().starts_with("constexpr int "));
    let parts =
        lines.flat_map(|line| line.trim().trim_start_matches("constexpr int ").split([',', ';']));
    let value = parts.filter_map(|part| part.split_once(" = ")).find(|(n, _)| n.trim() == name)?.1;
    value.trim().parse().ok()
}

/// The numbers of `using name = Tile<..>`.
fn tile(text: &str, name: &str) -> Option<Vec<usize>> {
    let rest = text.split(&format!("using {name} = Tile<")).nth(1)?;
    rest.split('>').next()?.split(',').map(|n| n.trim().parse().ok()).collect()
}

/// Pixels, channels and threads of a block of a tile.
fn block(numbers: &[usize]) -> [usize; 3] {
    match *numbers {
        // BM, BN, WM, WN, STAGES of conv2d.cu
        [m, n, warp_m, warp_n, _] => [m, n, m / warp_m * (n / warp_n) * 32],
        // WARPS, CHANNELS, TERMS of density.cu
        [warps, channels, _] => [warps * 32, channels, warps * 32],
        _ => panic!("{numbers:?}"),
    }
}

/// Every KERNEL and KERNEL_BLOCKS: name, parameters, threads, the function.
fn kernels(text: &str) -> Vec<[String; 4]> {
    let lines = text.lines().filter(|line| line.starts_with("KERNEL"));
    let kernel = |line: &str| {
        let mut parts =
            line.split_once('(').unwrap().1.splitn(4, ',').map(|part| part.trim().to_owned());
        std::array::from_fn(|_| parts.next().unwrap())
    };
    lines.map(kernel).collect()
}

/// Where `text` and the launch file disagree, one line each.
fn differences(source: &Source, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut same = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            found.push(format!(
                "kernels/{}.cu, {what}: {theirs}, the launch has {ours}",
                source.file
            ));
        }
    };
    let parameters = &source.parameters;
    match parse(text, parameters.name) {
        Err(error) => same(parameters.name, "a struct".into(), error),
        Ok((fields, bytes)) => {
            let ours = parameters
                .fields
                .iter()
                .map(|Field { name, kind, offset }| (name.to_string(), kind.to_string(), *offset));
            same(parameters.name, format!("{:?}", ours.collect::<Vec<_>>()), format!("{fields:?}"));
            same("size", parameters.bytes.to_string(), bytes.to_string());
        }
    }
    for (name, value) in source.constants {
        same(name, format!("{:?}", Some(value)), format!("{:?}", constant(text, name)));
    }
    let declared = kernels(text);
    let names = |names: Vec<&str>| {
        let mut names = names;
        names.sort_unstable();
        names.join(" ")
    };
    same(
        "kernels",
        names(source.kernels.iter().map(|kernel| kernel.name).collect()),
        names(declared.iter().map(|[name, ..]| name.as_str()).collect()),
    );
    for [name, parameters, threads, function] in &declared {
        let Some(kernel) = source.kernels.iter().find(|kernel| kernel.name == name) else {
            continue;
        };
        same(name, source.parameters.name.into(), parameters.clone());
        let tile_name = threads.strip_suffix("::THREADS");
        let numbers = tile_name.and_then(|name| tile(text, name));
        let found = match &numbers {
            Some(numbers) => Some(block(numbers)[2]),
            None => threads.parse().ok().or_else(|| constant(text, threads)),
        };
        same(
            &format!("threads of {name}"),
            format!("{:?}", Some(kernel.threads)),
            format!("{found:?}"),
        );
        if let Some(tile_name) = tile_name {
            let runs = function.contains(&format!("<{tile_name}>"));
            same(
                &format!("tile of {name}"),
                tile_name.into(),
                if runs { tile_name.into() } else { function.clone() },
            );
            let [pixels, channels, _] = numbers.as_deref().map_or([0; 3], block);
            let ours = tile_of(name);
            same(
                &format!("tile of {name}"),
                format!("{ours:?}"),
                format!("{:?}", Some((pixels, channels))),
            );
        }
    }
    // The compiler holds `shared_bytes() == N`; here: N is the launch's.
    let asserted: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("static_assert"))
        .flat_map(|line| line.split("== ").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap())
        .collect();
    for kernel in source.kernels.iter().filter(|kernel| kernel.shared_bytes > 10_000) {
        let bytes = kernel.shared_bytes.to_string();
        let there = if asserted.contains(&bytes.as_str()) {
            bytes.clone()
        } else {
            format!("{asserted:?}")
        };
        same(&format!("shared memory of {}", kernel.name), bytes, there);
    }
    found
}

/// Pixels and channels of the launch's tile of a kernel.
fn tile_of(kernel: &str) -> Option<(usize, usize)> {
    let mut tiles = conv2d::TILES.iter().chain(&conv2d::HOPPER_TILES);
    let conv = tiles.find(|tile| tile.kernel() == kernel).map(|t| (t.pixels, t.channels));
    let fast = |tile: &&density::DensityTile| tile.kernels().contains(&kernel);
    conv.or(density::TILES.iter().find(fast).map(|t| (t.pixels, t.channels)))
}

/// The structs that parameters hold are compared as they are; a change of one is a change of each that holds it.
#[test]
fn nested_structs_are_the_same() {
    for (file, ours) in NESTED {
        let (fields, bytes) = parse(&text(file), ours.name).unwrap();
        let name = |name: &str, kind: &str, offset| (name.to_owned(), kind.to_owned(), offset);
        let found: Vec<_> = ours.fields.iter().map(|f| name(f.name, f.kind, f.offset)).collect();
        assert_eq!((found, ours.bytes), (fields, bytes), "{}", ours.name);
    }
}

#[test]
fn the_launches_and_the_kernels_state_the_same() {
    let mut files: Vec<String> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"))
            .unwrap()
            .filter_map(|entry| {
                Some(entry.unwrap().file_name().to_str()?.strip_suffix(".cu")?.to_owned())
            })
            .collect();
    files.sort();
    let mut ours: Vec<&str> = SOURCES.iter().map(|source| source.file).collect();
    ours.sort_unstable();
    assert_eq!(files, ours, "every .cu has a line in the table");
    for source in SOURCES {
        let found = differences(source, &text(source.file));
        assert!(found.is_empty(), "{}", found.join("\n"));
        assert!(source.kernels.iter().all(|kernel| kernel.file == source.file), "{}", source.file);
    }
}

/// Every field of every struct renamed, swapped with the next, and made larger.
#[test]
fn a_changed_field_is_noticed() {
    let mut changes = 0;
    for source in SOURCES {
        let (text, name) = (text(source.file), source.parameters.name);
        let start = text.find(&format!("struct {name} {{")).unwrap();
        let end = start + text[start..].find("};").unwrap();
        let fields = source.parameters.fields;
        // One declaration per field, so that each can be changed alone.
        let declare = |field: &Field| match field.kind {
            "Address" => format!("void* {};", field.name),
            "i32" => format!("int32_t {};", field.name),
            "i64" => format!("int64_t {};", field.name),
            "f32" => format!("float {};", field.name),
            "[f32; 3]" => format!("float {}[3];", field.name),
            "[i32; 5]" => format!("int32_t {}[5];", field.name),
            other => format!("{other} {};", field.name),
        };
        let with = |lines: &[String]| {
            let body = format!("struct {name} {{\n{}\n", lines.join("\n"));
            differences(source, &format!("{}{body}{}", &text[..start], &text[end..]))
        };
        let lines: Vec<String> = fields.iter().map(declare).collect();
        assert!(with(&lines).is_empty(), "{name}, unchanged: {:?}", with(&lines));
        for i in 0..lines.len() {
            let mut renamed = lines.clone();
            renamed[i] = lines[i].replace(fields[i].name, "another");
            let mut resized = lines.clone();
            resized[i] = match fields[i].kind {
                "Address" | "i64" => format!("int32_t {};", fields[i].name),
                "[f32; 3]" => format!("float {}[4];", fields[i].name),
                _ => format!("int64_t {};", fields[i].name),
            };
            let mut swapped = lines.clone();
            swapped.swap(i, (i + 1) % lines.len());
            let mut dropped = lines.clone();
            dropped.remove(i);
            for (what, changed) in [
                ("renamed", renamed),
                ("resized", resized),
                ("swapped", swapped),
                ("dropped", dropped),
            ] {
                assert!(!with(&changed).is_empty(), "{name}.{}, {what}", fields[i].name);
                changes += 1;
            }
        }
    }
    assert!(changes > 4 * 100, "{changes}");
}

/// Every constant, every kernel's name, threads and shared memory, and a tile.
#[test]
fn a_changed_number_is_noticed() {
    for source in SOURCES {
        let text = text(source.file);
        let changed = |what: &str, from: &str, to: &str| {
            assert!(text.contains(from), "{}: no {from}", source.file);
            let found = differences(source, &text.replace(from, to));
            assert!(!found.is_empty(), "{}, {what}: {from} to {to}", source.file);
        };
        for (name, value) in source.constants {
            changed("constant", &format!("{name} = {value}"), &format!("{name} = {}", value + 1));
        }
        for kernel in source.kernels {
            changed("kernel", &format!("({}, ", kernel.name), "(another, ");
            if kernel.shared_bytes > 10_000 {
                let bytes = kernel.shared_bytes;
                changed("shared memory", &format!("== {bytes}"), &format!("== {}", bytes + 16));
            }
        }
        for [name, parameters, threads, _] in kernels(&text) {
            let of = |threads: &str| format!("({name}, {parameters}, {threads},");
            changed("threads", &of(&threads), &of("96"));
        }
    }
    let (conv, text) = (SOURCES[0], text("conv2d"));
    let wider = text.replace("using Tile64x32 = Tile<64, 32,", "using Tile64x32 = Tile<64, 64,");
    assert!(wider != text && !differences(conv, &wider).is_empty());
}

/// W is packed by the host as the kernels read it: chunk c of row r of a panel's block lies in the row at c xor f(r). The
/// host's f is held equal to the kernel's text; Hopper's, in a warpgroup's descriptor, is the 128-byte swizzle of the PTX ISA
/// (matrix descriptor, layout type 1): r % 8.
#[test]
fn panels_are_permuted_alike() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu/density.rs");
    let host = std::fs::read_to_string(host).unwrap();
    let of = |text: &str, before: &str, row: &str| -> String {
        let after = text.split_once(before).unwrap_or_else(|| panic!("{before}")).1;
        let inside = after.split_once(" ^ (").unwrap().1.split_once(')').unwrap().0;
        inside.replace(row, "r")
    };
    let warp = of(&host, "Packing::Warp => chunk", "place");
    assert_eq!(
        warp,
        of(&text("density"), "int w_at(int row, int chunk) { return row * BK + ((chunk", "row")
    );
    assert_eq!(of(&host, "Packing::Warpgroup => chunk", "place"), "r & 7");
    assert!(text("density_hopper").contains("uint64_t(1) << 62"), "the descriptor's layout type");
}
