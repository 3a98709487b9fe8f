#define CONVT3D_IMPLEMENTATION
#include "convt3d.h"
