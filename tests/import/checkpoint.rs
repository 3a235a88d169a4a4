//! Writes checkpoints as PyTorch does (zip and legacy) and as safetensors does, from parts that a
//! test can damage.

use std::io::{Cursor, Write};

use half::{bf16, f16};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::generate::Weights;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
    I64,
}

impl Dtype {
    fn storage(self) -> &'static str {
        match self {
            Dtype::F16 => "HalfStorage",
            Dtype::Bf16 => "BFloat16Storage",
            Dtype::F32 => "FloatStorage",
            Dtype::F64 => "DoubleStorage",
            Dtype::I64 => "LongStorage",
        }
    }

    pub fn size(self) -> usize {
        match self {
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F32 => 4,
            Dtype::F64 | Dtype::I64 => 8,
        }
    }

    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for v in values {
            match self {
                Dtype::F16 => bytes.extend(f16::from_f32(*v).to_le_bytes()),
                Dtype::Bf16 => bytes.extend(bf16::from_f32(*v).to_le_bytes()),
                Dtype::F32 => bytes.extend(v.to_le_bytes()),
                Dtype::F64 => bytes.extend(f64::from(*v).to_le_bytes()),
                Dtype::I64 => bytes.extend((*v as i64).to_le_bytes()),
            }
        }
        bytes
    }
}

/// A tensor as the pickle describes it.
#[derive(Clone)]
pub struct Item {
    pub key: String,
    pub dtype: Dtype,
    pub storage: usize,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

/// A `torch.save` of a state dict, in parts.
#[derive(Clone)]
pub struct TorchFile {
    pub items: Vec<Item>,
    pub storages: Vec<Vec<u8>>,
    /// Keys of the dicts around the state dict, outermost first.
    pub nests: Vec<&'static str>,
    /// Opcodes after the tensors, which leave keys and values.
    pub extra: Vec<u8>,
    pub big_endian: bool,
}

fn contiguous(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

impl TorchFile {
    /// Every tensor in a storage of its own; counters as int64.
    pub fn new(weights: &Weights, dtype: Dtype) -> Self {
        let mut file = TorchFile {
            items: Vec::new(),
            storages: Vec::new(),
            nests: Vec::new(),
            extra: Vec::new(),
            big_endian: false,
        };
        for (key, weight) in weights {
            let counter = key.ends_with("num_batches_tracked");
            let dtype = if counter { Dtype::I64 } else { dtype };
            let shape: Vec<u64> = weight.shape.iter().map(|n| *n as u64).collect();
            file.items.push(Item {
                key: key.clone(),
                dtype,
                storage: file.storages.len(),
                offset: 0,
                strides: contiguous(&shape),
                shape,
            });
            file.storages.push(dtype.encode(&weight.data));
        }
        file
    }

    pub fn item(&mut self, key: &str) -> &mut Item {
        self.items.iter_mut().find(|item| item.key == key).expect("a key of the checkpoint")
    }

    /// The bytes of a tensor's storage.
    pub fn storage(&mut self, key: &str) -> &mut Vec<u8> {
        let storage = self.item(key).storage;
        &mut self.storages[storage]
    }

    /// The pickle of the object; a legacy storage id has one field more.
    pub fn pickle(&self, legacy: bool) -> Vec<u8> {
        let mut p = vec![0x80, 2];
        for nest in &self.nests {
            p.push(b'}');
            text(&mut p, nest);
        }
        p.extend(b"ccollections\nOrderedDict\n)R(");
        for item in &self.items {
            text(&mut p, &item.key);
            p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(&mut p, "storage");
            p.extend(format!("ctorch\n{}\n", item.dtype.storage()).bytes());
            text(&mut p, &item.storage.to_string());
            text(&mut p, "cpu");
            int(&mut p, (self.storages[item.storage].len() / item.dtype.size()) as u64);
            p.extend(if legacy { b"Nt".as_slice() } else { b"t" });
            p.push(b'Q');
            int(&mut p, item.offset);
            for sizes in [&item.shape, &item.strides] {
                p.push(b'(');
                sizes.iter().for_each(|n| int(&mut p, *n));
                p.push(b't');
            }
            p.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        }
        p.extend(&self.extra);
        p.push(b'u');
        p.extend(self.nests.iter().map(|_| b's'));
        p.push(b'.');
        p
    }

    /// Names and contents of the archive's members.
    pub fn members(&self) -> Vec<(String, Vec<u8>)> {
        let mut members = vec![("data.pkl".to_owned(), self.pickle(false))];
        if self.big_endian {
            members.push(("byteorder".to_owned(), b"big".to_vec()));
        }
        for (i, bytes) in self.storages.iter().enumerate() {
            members.push((format!("data/{i}"), self.stored(i, bytes)));
        }
        members
    }

    pub fn zip(&self) -> Vec<u8> {
        zip(&self.members(), CompressionMethod::Stored)
    }

    pub fn legacy(&self) -> Vec<u8> {
        let mut f = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
        f.extend(b"\x80\x02M\xe9\x03.\x80\x02}");
        text(&mut f, "little_endian");
        f.extend(if self.big_endian { b"\x89s." } else { b"\x88s." });
        f.extend(self.pickle(true));
        f.extend(b"\x80\x02](");
        (0..self.storages.len()).for_each(|i| text(&mut f, &i.to_string()));
        f.extend(b"e.");
        for (i, bytes) in self.storages.iter().enumerate() {
            let count = (bytes.len() / self.element(i)) as i64;
            f.extend(if self.big_endian { count.to_be_bytes() } else { count.to_le_bytes() });
            f.extend(self.stored(i, bytes));
        }
        f
    }

    fn element(&self, storage: usize) -> usize {
        let item = self.items.iter().find(|item| item.storage == storage);
        item.map_or(1, |item| item.dtype.size())
    }

    fn stored(&self, storage: usize, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if self.big_endian {
            bytes.chunks_exact_mut(self.element(storage)).for_each(<[u8]>::reverse);
        }
        bytes
    }
}

/// An archive of members in a folder, as torch names them.
pub fn zip(members: &[(String, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("any-name/{name}"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// An archive whose pickle is these opcodes.
pub fn zip_of_pickle(pickle: Vec<u8>) -> Vec<u8> {
    zip(&[("data.pkl".to_owned(), pickle)], CompressionMethod::Deflated)
}

pub fn safetensors(weights: &Weights, dtype: Dtype) -> Vec<u8> {
    use safetensors::tensor::{Dtype as Stored, TensorView};
    let encode = |(key, weight): (_, &crate::generate::Weight)| {
        (key, weight.shape.clone(), dtype.encode(&weight.data))
    };
    let encoded: Vec<(&String, _, _)> = weights.iter().map(encode).collect();
    let views = encoded.iter().map(|(key, shape, bytes)| {
        let stored = match dtype {
            Dtype::F16 => Stored::F16,
            Dtype::Bf16 => Stored::BF16,
            Dtype::F32 => Stored::F32,
            Dtype::F64 => Stored::F64,
            Dtype::I64 => Stored::I64,
        };
        (key.as_str(), TensorView::new(stored, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// BINUNICODE
pub fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    pickle.extend(text.bytes());
}

/// LONG1, as long as an i64 needs.
fn int(pickle: &mut Vec<u8>, n: u64) {
    pickle.extend([0x8a, 8]);
    pickle.extend(i64::try_from(n).unwrap().to_le_bytes());
}
