//! The fused operators as ONNX Runtime sees them, in the domain [`DOMAIN`].
//!
//! | operator | inputs | outputs |
//! |---|---|---|
//! | `QuantizeRows` | rows, smoothing? | bytes, steps |
//! | `LayerNormQuantize` | product, residual, norm scale, norm shift, row scales?, offset?, smoothing? | normed, bytes, steps |
//! | `GeluQuantize` | product, row scales?, offset? | bytes, steps |
//! | `AttentionQuantize` | product, mask, row scales?, offset? | bytes, steps |
//!
//! Products have a row per token, and steps have the shape `[tokens, 1]`. The mask has the shape
//! `[posts, 1, 1, tokens of a post]`. All have the attributes of [`Quantization`]; `LayerNormQuantize` has `epsilon`,
//! `AttentionQuantize` has `heads`.

use std::cell::RefCell;

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    value::{TensorElementType, ValueRef, ValueRefMut},
};

use moodstream_kernels::{
    AttentionQuantize, AttentionScratch, AttentionShape, BLOCK, GeluQuantize, LayerNormQuantize, Norm, Product,
    Quantization, QuantizeRows, Quantized, Step,
};

/// The domain of the operators.
pub(super) const DOMAIN: &str = "moodstream";

const FLOAT: TensorElementType = TensorElementType::Float32;
const BYTE: TensorElementType = TensorElementType::Uint8;

/// Returns the domain with all operators.
pub(in crate::classify) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(Fused::QuantizeRows)?
        .add(Fused::LayerNormQuantize)?
        .add(Fused::GeluQuantize)?
        .add(Fused::AttentionQuantize)
}

/// A fused operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fused {
    QuantizeRows,
    LayerNormQuantize,
    GeluQuantize,
    AttentionQuantize,
}

impl Fused {
    /// The operator's name in a graph.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::QuantizeRows => "QuantizeRows",
            Self::LayerNormQuantize => "LayerNormQuantize",
            Self::GeluQuantize => "GeluQuantize",
            Self::AttentionQuantize => "AttentionQuantize",
        }
    }

    /// The numbers of required and of optional inputs.
    const fn input_counts(self) -> [usize; 2] {
        match self {
            Self::QuantizeRows => [1, 1],
            Self::LayerNormQuantize => [4, 3],
            Self::GeluQuantize => [1, 2],
            Self::AttentionQuantize => [2, 2],
        }
    }
}

/// The attributes of [`Quantization`].
pub(super) mod attribute {
    pub(in crate::classify::fused) const ZERO_POINT: &str = "zero_point";
    /// The step of all rows; 0 if each row has its own.
    pub(in crate::classify::fused) const STEP: &str = "step";
    pub(in crate::classify::fused) const MINIMUM: &str = "minimum";
    pub(in crate::classify::fused) const FACTOR: &str = "factor";
    /// 1 if a row's step follows from its largest magnitude, 0 if from its largest value.
    pub(in crate::classify::fused) const MAGNITUDE: &str = "magnitude";
    pub(in crate::classify::fused) const EPSILON: &str = "epsilon";
    pub(in crate::classify::fused) const HEADS: &str = "heads";
}

impl Operator for Fused {
    type Kernel<'attr> = FusedKernel;

    fn name(&self) -> &str {
        (*self).name()
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let [required, optional] = self.input_counts();
        let required = (0..required).map(|_| OperatorInput::required(FLOAT));
        required.chain((0..optional).map(|_| OperatorInput::optional(FLOAT)))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let normed = (*self == Self::LayerNormQuantize).then_some(FLOAT);
        normed.into_iter().chain([BYTE, FLOAT]).map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<FusedKernel> {
        let float = |name: &str| context.get::<f32>(name).ok_or_else(|| missing(name));
        let int = |name: &str| context.get::<i64>(name).ok_or_else(|| missing(name));
        let (fixed, minimum, factor) = (
            float(attribute::STEP)?,
            float(attribute::MINIMUM)?,
            float(attribute::FACTOR)?,
        );
        let step = if fixed > 0.0 {
            Step::Fixed(fixed)
        } else if int(attribute::MAGNITUDE)? == 1 {
            Step::LargestMagnitude { minimum, factor }
        } else {
            Step::Largest { minimum, factor }
        };
        Ok(FusedKernel {
            operator: *self,
            quantization: Quantization {
                zero_point: int(attribute::ZERO_POINT)? as f32,
                step,
            },
            epsilon: match self {
                Self::LayerNormQuantize => float(attribute::EPSILON)?,
                _ => 0.0,
            },
            heads: match self {
                Self::AttentionQuantize => int(attribute::HEADS)?.max(1) as usize,
                _ => 1,
            },
        })
    }
}

fn missing(attribute: &str) -> ort::Error {
    ort::Error::new(format!("the attribute {attribute:?} is missing"))
}

thread_local! {
    /// The layers of a session run in one thread, one after the other.
    static SCRATCH: RefCell<AttentionScratch> = RefCell::default();
}

/// A node of a fused operator.
pub(super) struct FusedKernel {
    operator: Fused,
    quantization: Quantization,
    epsilon: f32,
    heads: usize,
}

impl Kernel for FusedKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        match self.operator {
            Fused::QuantizeRows => self.quantize_rows(context),
            Fused::LayerNormQuantize => self.layer_norm(context),
            Fused::GeluQuantize => self.gelu(context),
            Fused::AttentionQuantize => self.attention(context),
        }
    }
}

impl FusedKernel {
    fn quantize_rows(&self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::of(context)?;
        let (rows, width, values) = inputs.matrix(0)?;
        let smoothing = inputs.vector(1, width)?;
        let mut outputs = Outputs::new(context, 0, [rows, width])?;
        QuantizeRows {
            rows: values,
            width,
            smoothing,
            quantization: self.quantization,
            out: outputs.quantized()?,
        }
        .run();
        Ok(())
    }

    fn layer_norm(&self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::of(context)?;
        let (rows, width, values) = inputs.matrix(0)?;
        let (_, residual_width, residual) = inputs.matrix(1)?;
        let norm = Norm {
            scale: inputs.vector(2, width)?.unwrap_or_default(),
            shift: inputs.vector(3, width)?.unwrap_or_default(),
            epsilon: self.epsilon,
        };
        let product = inputs.product(values, [rows, width], [4, 5])?;
        let smoothing = inputs.vector(6, width)?;
        if residual_width != width || residual.len() != values.len() {
            return Err(ort::Error::new("the product and the residual have different shapes"));
        }
        let mut normed = output(context, 0, [rows, width])?;
        let (_, normed) = normed.try_extract_tensor_mut::<f32>()?;
        let mut outputs = Outputs::new(context, 1, [rows, width])?;
        LayerNormQuantize {
            product,
            residual,
            norm,
            smoothing,
            quantization: self.quantization,
            normed,
            out: outputs.quantized()?,
        }
        .run();
        Ok(())
    }

    fn gelu(&self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::of(context)?;
        let (rows, width, values) = inputs.matrix(0)?;
        let product = inputs.product(values, [rows, width], [1, 2])?;
        let mut outputs = Outputs::new(context, 0, [rows, width])?;
        GeluQuantize {
            product,
            width,
            quantization: self.quantization,
            out: outputs.quantized()?,
        }
        .run();
        Ok(())
    }

    fn attention(&self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::of(context)?;
        let (rows, columns, values) = inputs.matrix(0)?;
        let (shape, mask) = inputs.get(1)?.unwrap_or_default();
        let (&[posts, 1, 1, tokens], width) = (shape, columns / 3) else {
            return Err(ort::Error::new(format!("the mask has the shape {shape:?}")));
        };
        let shape = AttentionShape {
            posts: posts as usize,
            tokens: tokens as usize,
            heads: self.heads,
            head_width: width / self.heads,
        };
        let is_whole = width * 3 == columns && width.is_multiple_of(self.heads * BLOCK);
        if shape.posts * shape.tokens != rows || mask.len() != rows || !is_whole {
            return Err(ort::Error::new("the mask does not fit the product"));
        }
        let product = inputs.product(values, [rows, columns], [2, 3])?;
        let mut outputs = Outputs::new(context, 0, [rows, width])?;
        if rows > 0 {
            let (quantization, out) = (self.quantization, outputs.quantized()?);
            SCRATCH.with_borrow_mut(|scratch| {
                AttentionQuantize {
                    product,
                    mask,
                    shape,
                    quantization,
                    scratch,
                    out,
                }
                .run();
            });
        }
        Ok(())
    }
}

/// The inputs of a node.
struct Inputs<'c> {
    values: Vec<Option<ValueRef<'c>>>,
}

impl<'c> Inputs<'c> {
    fn of(context: &'c ComputeContext) -> ort::Result<Self> {
        let count = context.num_inputs()?;
        let values = (0..count)
            .map(|index| context.input(index))
            .collect::<ort::Result<_>>()?;
        Ok(Self { values })
    }

    /// Returns the shape and the elements of an input, if the node has it.
    fn get(&self, index: usize) -> ort::Result<Option<(&[i64], &[f32])>> {
        let Some(Some(value)) = self.values.get(index) else {
            return Ok(None);
        };
        let (shape, data) = value.try_extract_tensor::<f32>()?;
        Ok(Some((shape, data)))
    }

    /// Returns rows, columns and elements of an input.
    fn matrix(&self, index: usize) -> ort::Result<(usize, usize, &[f32])> {
        let (shape, data) = self.get(index)?.unwrap_or_default();
        let width = shape.last().copied().unwrap_or_default().max(1) as usize;
        if !width.is_multiple_of(BLOCK) {
            return Err(ort::Error::new(format!("the input {index} has the shape {shape:?}")));
        }
        Ok((data.len() / width, width, data))
    }

    /// Returns an input that is absent or has `width` elements.
    fn vector(&self, index: usize, width: usize) -> ort::Result<Option<&[f32]>> {
        match self.get(index)? {
            Some((shape, data)) if data.len() != width => Err(ort::Error::new(format!(
                "the input {index} has the shape {shape:?} instead of [{width}]"
            ))),
            found => Ok(found.map(|(_, data)| data)),
        }
    }

    /// Returns a product with the inputs that are its row scales and its offset.
    fn product<'a>(
        &'a self,
        values: &'a [f32],
        [rows, width]: [usize; 2],
        [row_scales, offset]: [usize; 2],
    ) -> ort::Result<Product<'a>> {
        Ok(Product {
            values,
            row_scales: self.vector(row_scales, rows)?,
            offset: self.vector(offset, width)?,
        })
    }
}

/// The outputs `bytes` and `steps`.
struct Outputs<'c> {
    bytes: ValueRefMut<'c>,
    steps: ValueRefMut<'c>,
}

impl<'c> Outputs<'c> {
    /// Allocates them; `first` is the index of `bytes`.
    fn new(context: &'c ComputeContext, first: usize, [rows, width]: [usize; 2]) -> ort::Result<Self> {
        Ok(Self {
            bytes: output(context, first, [rows, width])?,
            steps: output(context, first + 1, [rows, 1])?,
        })
    }

    fn quantized(&mut self) -> ort::Result<Quantized<'_>> {
        Ok(Quantized {
            bytes: self.bytes.try_extract_tensor_mut::<u8>()?.1,
            steps: self.steps.try_extract_tensor_mut::<f32>()?.1,
        })
    }
}

fn output(context: &ComputeContext, index: usize, shape: [usize; 2]) -> ort::Result<ValueRefMut<'_>> {
    let value = context.output(index, shape)?;
    value.ok_or_else(|| ort::Error::new(format!("the output {index} is missing")))
}
