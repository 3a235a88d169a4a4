// As moments.cu, of the kernels that sort.
#define OTHER_FILE "../../kernels/moments.cu"
#include "moments.cu"
