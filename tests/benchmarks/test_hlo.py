"""Counts in compiled programs are compared with independent counts."""

import jax
import numpy as np
import pytest

from benchmarks import hlo
from benchmarks import workload
from tests.references import exact_mean_operations
from train import config as config_lib

_MAC = [
  # Input, kernel, strides, padding, dilation of the input and of the kernel.
  ((2, 8, 8, 3), (3, 3, 3, 5), (2, 2), (1, 1), (1, 1), (1, 1)),
  ((2, 8, 8, 4), (1, 1, 4, 6), (2, 2), (0, 0), (1, 1), (1, 1)),
  # The gradients of a convolution with stride 2 for its input and its kernel.
  ((2, 4, 4, 5), (3, 3, 5, 3), (1, 1), (1, 2), (2, 2), (1, 1)),
  ((3, 9, 9, 2), (4, 4, 2, 5), (1, 1), (1, 1), (1, 1), (2, 2)),
]


@pytest.mark.parametrize(
  ('ours', 'theirs', 'strides', 'pad', 'dilation', 'kernel_dilation'), _MAC
)
def test_flop_exclude_products_with_padding(
  ours, theirs, strides, pad, dilation, kernel_dilation
):
  ones = jax.lax.conv_general_dilated(
    np.ones(ours, np.float32),
    np.ones(theirs, np.float32),
    strides,
    [pad, pad],
    lhs_dilation=dilation,
    rhs_dilation=kernel_dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  window = ' '.join(
    f'{name}={"x".join(map(str, values))}'
    for name, values in (
      ('size', theirs[:2]),
      ('stride', strides),
      ('pad', [f'{pad[0]}_{pad[1]}'] * 2),
      ('lhs_dilate', dilation),
      ('rhs_dilate', kernel_dilation),
    )
  )
  module = _module(
    f'%a = bf16[{_shape(ours)}]{{3,2,1,0}} parameter(0)',
    f'%b = bf16[{_shape(theirs)}]{{3,2,1,0}} parameter(1)',
    f'ROOT %c = bf16[{_shape(ones.shape)}]{{3,2,1,0}} convolution(%a, %b),'
    f' window={{{window}}}, dim_labels=b01f_01io->b01f',
  )
  (found,) = module.convolutions()
  # The sum of ones times ones is the number of products.
  assert found.flops == 2 * np.sum(np.asarray(ones, np.float64))
  assert (found.call, found.dtype) == ('convolution', 'bfloat16')


@pytest.mark.parametrize(
  ('target', 'operands', 'result'),
  [
    ('__cudnn$convForward', ('8,32,32,16', '32,3,3,16'), '8,16,16,32'),
    ('__cudnn$convBackwardInput', ('8,16,16,32', '32,3,3,16'), '8,32,32,16'),
    ('__cudnn$convBackwardFilter', ('8,32,32,16', '8,16,16,32'), '32,3,3,16'),
  ],
)
def test_the_three_convolutions_of_cudnn_have_equal_flop(
  target, operands, result
):
  ones = jax.lax.conv_general_dilated(
    np.ones((8, 32, 32, 16), np.float32),
    np.ones((3, 3, 16, 32), np.float32),
    (2, 2),
    [(1, 1), (1, 1)],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  module = _module(
    f'%a = bf16[{operands[0]}]{{3,2,1,0}} parameter(0)',
    f'%b = bf16[{operands[1]}]{{3,2,1,0}} parameter(1)',
    f'ROOT %c = (bf16[{result}]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%a, %b),'
    ' window={size=3x3 stride=2x2 pad=1_1x1_1},'
    f' dim_labels=b01f_o01i->b01f, custom_call_target="{target}"',
  )
  (found,) = module.convolutions()
  assert found.flops == 2 * np.sum(np.asarray(ones, np.float64))
  assert found.dtype == 'bfloat16'


def test_collectives_are_read_from_the_text():
  module = _module(
    '%a = f32[3,3]{1,0} parameter(0)',
    '%all-reduce.1 = (f32[3,3]{1,0}, bf16[8]{0:T(128)(2,1)}) all-reduce(%a,'
    ' %a), channel_id=1',
    '%x = f32[] all-reduce-start(%a), channel_id=2',
    '%y = (f32[9]{0}, f32[64]{0}) all-gather-start(%a), dimensions={0}',
    '%w = ((f32[9]{0}), f32[9]{0}) all-reduce-start(%a), channel_id=3',
    '%d = f32[64]{0} all-gather-done(%y)',
    'ROOT %z = f32[3,3]{1,0} add(%a, %a)',
  )
  assert [(c.name, c.dtype, c.bytes) for c in module.collectives()] == [
    ('all-reduce', 'bfloat16+float32', 36 + 16),
    ('all-reduce', 'float32', 4),
    ('all-gather', 'float32', 256),
    ('all-reduce', 'float32', 36),
  ]


def test_bytes_of_a_kernel_exclude_unread_rows_and_on_chip_memory():
  module = _module(
    '%images = u8[50000,3072]{1,0} parameter(0)',
    '%chosen = s32[128,1]{1,0} parameter(1)',
    '%near = f32[1000]{0:T(1024)S(1)} parameter(2)',
    'ROOT %f = (u8[128,3072]{1,0}, f32[1000]{0:T(1024)S(1)}) fusion(%images,'
    ' %chosen, %near), kind=kLoop, calls=%rows',
    called={
      '%rows': [
        '%p = u8[50000,3072]{1,0} parameter(0)',
        '%q = s32[128,1]{1,0} parameter(1)',
        '%r = f32[1000]{0} parameter(2)',
        '%b = u8[50000,3072]{1,0} bitcast(%p)',
        '%g = u8[128,3072]{1,0} gather(%b, %q), offset_dims={1}',
        'ROOT %t = (u8[128,3072]{1,0}, f32[1000]{0}) tuple(%g, %r)',
      ]
    },
  )
  (kernel,) = module.kernels()
  assert kernel.bytes == 2 * 128 * 3072 + 4 * 128


def test_copies_are_kernels_that_only_copy():
  module = _module(
    '%a = f32[1024,1024]{1,0} parameter(0)',
    '%small = f32[8]{0} parameter(1)',
    '%one = f32[1024,1024]{0,1} copy(%a)',
    '%little = f32[8]{0} copy(%small)',
    # Copied to on-chip memory.
    '%near = f32[1024,1024]{1,0:S(1)} copy(%a)',
    '%two = f32[1024,1024]{1,0} fusion(%one), kind=kLoop, calls=%turn',
    '%three = f32[1024,1024]{1,0} fusion(%one, %two), kind=kLoop, calls=%add',
    'ROOT %t = (f32[1024,1024]{1,0}) tuple(%three)',
    called={
      '%turn': [
        '%p = f32[1024,1024]{0,1} parameter(0)',
        'ROOT %x = f32[1024,1024]{1,0} transpose(%p), dimensions={1,0}',
      ],
      '%add': [
        '%q = f32[1024,1024]{0,1} parameter(0)',
        '%r = f32[1024,1024]{1,0} parameter(1)',
        '%y = f32[1024,1024]{1,0} transpose(%q), dimensions={1,0}',
        'ROOT %s = f32[1024,1024]{1,0} add(%y, %r)',
      ],
    },
  )
  copies = module.copies(module.entry, 10**6)
  assert [i.name for i in copies] == ['one', 'two']
  others = module.transpositions(module.entry, 10**6)
  assert [i.name for i in others] == ['three']


def test_a_value_that_two_fusions_compute_counts_once():
  frames = (
    'FileNames\n1 "/a/run.py"\n2 "/a/mean.py"\n\n'
    'FunctionNames\n1 "f"\n\n'
    'FileLocations\n'
    '1 {file_name_id=1 function_name_id=1 line=1}\n'
    '2 {file_name_id=2 function_name_id=1 line=2}\n\n'
    # The first calls the second.
    'StackFrames\n'
    '1 {file_location_id=1 parent_frame_id=1}\n'
    '2 {file_location_id=2 parent_frame_id=2}\n\n'
  )
  add = 'f32[] add(%p, %q), metadata={op_name="add" stack_frame_id='
  body = [
    '%p = f32[] parameter(0)',
    '%q = f32[] parameter(1)',
    f'%x = {add}2}}',
    f'%elsewhere = {add}1}}',
  ]
  module = _module(
    '%a = f32[] parameter(0)',
    '%b = f32[] parameter(1)',
    '%f = f32[] fusion(%a, %b), kind=kLoop, calls=%first',
    '%g = f32[] fusion(%a, %b), kind=kLoop, calls=%second',
    # With other operands it is another value.
    '%h = f32[] fusion(%b, %g), kind=kLoop, calls=%second',
    'ROOT %t = (f32[], f32[], f32[]) tuple(%f, %g, %h)',
    called={
      '%first': [*body, 'ROOT %r = f32[] negate(%x)'],
      '%second': [*body, 'ROOT %r = f32[] negate(%x)'],
    },
    before=frames,
  )
  assert module.arithmetic('mean.py') == {'add': 2}


def test_a_compiled_program_has_all_operations_of_the_exact_mean():
  config = config_lib.Config(model='mlp', batch_size=16)
  program = workload.of_run(config, workload.noise(64, 8, 1, 1))
  module = hlo.Module(program.lower_train().compile().as_text())
  counted = module.arithmetic('optax_lcam/_exact_mean.py')
  assert {
    'additions': counted['add'],
    'subtractions': counted['subtract'],
  } == exact_mean_operations.count()


def _module(*lines, called=None, before=''):
  text = 'HloModule made, is_scheduled=true\n\n' + before
  for name, inner in (called or {}).items():
    text += f'{name} (p: f32[]) -> f32[] {{\n'
    text += ''.join(f'  {line}\n' for line in inner) + '}\n\n'
  text += 'ENTRY %main (a: f32[]) -> f32[] {\n'
  return hlo.Module(text + ''.join(f'  {line}\n' for line in lines) + '}\n')


def _shape(shape):
  return ','.join(map(str, shape))
